"""The section of a report on the tuning of its arms."""

"""The datasets that vitab knows by name: their files, downloads and formats."""

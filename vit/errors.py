"""Errors of the model package."""


class ConfigError(ValueError):
    """A configuration no model can have: one line that names the field, what was given and what is valid."""

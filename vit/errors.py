"""Errors of the model package."""


class ConfigError(ValueError):
    """Invalid configuration or argument. The one-line message gives the field, the valid values and the value."""

"""Errors of the model package."""


class ConfigError(ValueError):
    """An invalid configuration. The message names the field, what is valid and what was given, in one line."""

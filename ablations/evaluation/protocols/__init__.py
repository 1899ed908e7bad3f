"""The built-in protocols, one per module."""

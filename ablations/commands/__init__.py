"""The commands of `vitab`, a file for each group; `ablations.cli` puts them together."""

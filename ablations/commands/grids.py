"""`vitab grids`: list the built-in grids."""

from ablations.commands.base import console as make_console


def list_grids() -> None:
    """List the built-in grids with their questions."""
    from ablations.commands.display import show_grids
    from ablations.config import GRIDS

    show_grids(make_console(), GRIDS)

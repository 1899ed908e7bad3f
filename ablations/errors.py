"""Errors that the command line shows as one line instead of a traceback."""

import difflib
from collections.abc import Iterable


class VitabError(Exception):
    """Base class of errors with a one-line message for the user."""


class UsageError(VitabError):
    """Invalid input (exit code 2). The message names the field, the given value and the valid values."""


class StorageError(VitabError):
    """Failed write to the disk, which affects every run and is not caused by one."""


class UnfitError(VitabError):
    """Run that this machine cannot execute but another may: its data are missing here, or differ."""


class TakenOverError(Exception):
    """Run that another process has taken over, so that this process must not write its result."""


def unknown_name(field: str, given: object, valid: Iterable[str]) -> UsageError:
    """Return the error for an unknown name, with the name it abbreviates or is nearest to, and all valid names.

    An abbreviation has the initials of the words of a name: `lr` for `learning_rate`.
    """
    names = list(valid)
    near = [name for name in names if "_" in name and str(given) == "".join(word[:1] for word in name.split("_"))]
    near = near or difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"unknown {field} {given!r}{hint}; valid: {', '.join(names) or 'none yet'}")

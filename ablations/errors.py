"""What the command line shows as one line instead of a traceback."""

import difflib
from collections.abc import Iterable


class VitabError(Exception):
    """Something went wrong that the user should read in one line."""


class UsageError(VitabError):
    """Bad input: the message names the field, what was given and what is valid (exit code 2)."""


class StorageError(VitabError):
    """Something could not be written: not the fault of its run, and no other run can be written either."""


class UnfitError(VitabError):
    """This machine cannot do a run that others may be able to do: its data are missing here, or are others."""


class TakenOverError(Exception):
    """Another process has the run; what this one has found is not written."""


def unknown_name(field: str, given: object, valid: Iterable[str]) -> UsageError:
    """The error for a name that is not there: the nearest that is, and all the valid ones."""
    names = list(valid)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"unknown {field} {given!r}{hint}; valid: {', '.join(names) or 'none yet'}")

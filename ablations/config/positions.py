"""Positional encodings as text: the standard spelling in a RunConfig, its label, and its part in the key of a run."""

from collections.abc import Callable, Iterator

from ablations.errors import UsageError, unknown_name


def standard_position(text: str) -> str:
    """Return the standard spelling of an encoding: `rope` for `rope(base=100)`.

    Encodings in files get the digest of their source; those that have it are not read. Raises UsageError for an unknown
    name, an invalid option, or a file that cannot be used.
    """
    from vit import ConfigError
    from vit.positions import POSITIONS, encoding, names, own, part_names

    try:
        parts = part_names(text)
        for name in parts:
            if name not in POSITIONS and not own.is_own(name) and not own.digest_of(name):
                if name.endswith(".py"):
                    raise UsageError(f"position must be FILE.py:CLASS for an encoding in a file, got {name!r}")
                raise unknown_name("position", name, names())
        return text if any(map(own.digest_of, parts)) else str(encoding(text))
    except ConfigError as error:
        raise UsageError(str(error)) from error


def split_positions(text: str) -> list[str]:
    """Split a list of encodings at commas outside brackets."""
    from vit.positions.spelling import split

    return split(text, ",")


def position_description(text: str) -> str | None:
    """Return what an encoding does, in a phrase; None for one whose source cannot be read here."""
    from vit import ConfigError
    from vit.positions import encoding

    try:
        return "; ".join(part.description for part in encoding(text).parts)
    except ConfigError:
        return None


def position_label(text: str) -> str:
    """Return an encoding as shown in reports: classes in files without file and digest."""
    from vit.positions import own

    return _renamed(text, own.short_name)


def position_identity(text: str) -> str:
    """Return an encoding as part of the key of a run: classes in files without the folder."""
    from vit.positions import own

    return _renamed(text, own.without_folder)


def _renamed(text: str, rename: Callable[[str], str]) -> str:
    from vit.positions.spelling import split

    def parts() -> Iterator[str]:
        for part in split(text, "+"):
            name, bracket, options = part.partition("(")
            yield rename(name) + bracket + options

    return "+".join(parts())

"""Positional encodings as text: the standard spelling in a RunConfig, its label, and its part in the key of a run."""

from collections.abc import Callable, Iterable, Iterator

from ablations.errors import UsageError, unknown_name


def standard_position(text: str) -> str:
    """Return the standard spelling of an encoding: `rope` for `rope(base=100)`.

    Encodings in files get the digest of their source; those that have it are not read. Raises UsageError for an unknown
    name, an invalid option, or a file that cannot be used.
    """
    from vit import ConfigError
    from vit.positions import POSITIONS, names, own, part_names, spelled

    try:
        parts = part_names(text)
        for name in parts:
            if name not in POSITIONS and not own.is_own(name) and not own.digest_of(name):
                if name.endswith(".py"):
                    raise UsageError(f"position must be FILE.py:CLASS for an encoding in a file, got {name!r}")
                raise unknown_name("position", name, names())
            if name in POSITIONS and own.digest_of(name):
                raise unknown_name("position", name, names())
        return spelled(text)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def split_positions(text: str) -> list[str]:
    """Split a list of encodings at commas outside brackets."""
    from vit.positions.spelling import split

    return split(text, ",")


def position_description(text: str) -> str | None:
    """Return what an encoding does, in a phrase; None if its source cannot be read here and no run has recorded it."""
    from vit import ConfigError
    from vit.positions import kind_of, own, part_names

    try:
        descriptions = [
            _descriptions.get(own.without_folder(name)) or kind_of(name).description for name in part_names(text)
        ]
    except ConfigError:
        return None
    return "; ".join(descriptions)


def remember_descriptions(encodings: object) -> None:
    """Use the descriptions of encodings that a run has recorded, as `provenance.described_encodings` returns them."""
    from vit.positions import own

    for facts in encodings.values() if isinstance(encodings, dict) else ():
        if isinstance(facts, dict) and {"name", "description"} <= facts.keys():
            _descriptions[own.without_folder(str(facts["name"]))] = str(facts["description"])


_descriptions: dict[str, str] = {}
"""Descriptions by the name of an encoding with its digest and without its folder."""


def position_label(text: str) -> str:
    """Return an encoding as shown in reports: classes in files without file and digest."""
    from vit.positions import own

    return _renamed(text, own.short_name)


def position_as_given(text: str) -> str:
    """Return an encoding without the digests of files, as on a command line."""
    from vit.positions import own

    return _renamed(text, own.without_digest) if "@" in text else text


def position_sources(text: str) -> tuple[str, ...]:
    """Return the sources of the parts of an encoding that are in files. Raises UsageError if one cannot be read."""
    if "@" not in text:
        return ()
    from vit import ConfigError
    from vit.positions import own, part_names

    try:
        return tuple(own.source_of(name) for name in part_names(text) if own.in_file(name))
    except ConfigError as error:
        raise UsageError(str(error)) from error


def remember_sources(sources: Iterable[str]) -> None:
    """Use these sources for encodings with their digests, instead of reading files."""
    if sources:
        from vit.positions import own

        for source in sources:
            own.remember(source)


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

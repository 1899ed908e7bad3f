"""Encodings that are not in this package: a class in a Python file, or an entry point of an installed package.

Their name includes the start of the SHA-256 of their source, `mine.py:Mine@0123456789ab`, so that runs with different
sources are different runs. The source of a file is read once; other processes can be given it (`remember`).
"""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType

from vit.errors import ConfigError
from vit.positions.base import Position

ENTRY_POINTS = "vitab.positions"
"""Group of the entry points of packages that provide encodings."""
DIGITS = 12
"""Hexadecimal digits of the SHA-256 in a name."""

_NAME = re.compile(rf"(?P<place>.+?)(?:@(?P<digest>[0-9a-f]{{{DIGITS}}}))?")
_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>\w+)")
_sources: dict[str, str] = {}
"""Sources of files by digest."""


def is_own(name: str) -> bool:
    """Return whether a name refers to a class in a file, or to an installed entry point."""
    place = _parse(name)[0]
    return bool(_FILE.fullmatch(place)) or place in entry_points()


def digest_of(name: str) -> str | None:
    """Return the digest in a name, or None. A name that has one is complete without reading the source."""
    return _parse(name)[1]


def short_name(name: str) -> str:
    """Return the name without folder, file and digest: `Mine` for `lab/mine.py:Mine@0123456789ab`."""
    place = _parse(name)[0]
    file = _FILE.fullmatch(place)
    return file["name"] if file else place


def without_digest(name: str) -> str:
    """Return the name as it is given: `lab/mine.py:Mine` for `lab/mine.py:Mine@0123456789ab`."""
    return _parse(name)[0]


def without_folder(name: str) -> str:
    """Return the name without the folder of the file: `mine.py:Mine@0123456789ab`."""
    return Path(name).name if _FILE.fullmatch(_parse(name)[0]) else name


@cache
def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the encodings of installed packages by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def load(name: str) -> type[Position]:
    """Return the class that a name refers to. Its `name` includes the digest of its source.

    Raises ConfigError, in one line, if the source cannot be read, raises an exception, has no such encoding, or differs
    from the digest in the name.
    """
    place, digest = _parse(name)
    if file := _FILE.fullmatch(place):
        source = _sources.get(digest or "") or _read(_path(file))
        found = digest_of_source(source)
    else:
        found = digest_of_source(_read(Path(inspect.getfile(_from_package(place)))))
    if digest not in (None, found):
        raise ConfigError(f"{place} has changed: its SHA-256 must start with {digest}, got {found}")
    if file:
        _sources[found] = source
        return _class_in_file(place, _path(file), file["name"], source)
    return _named(_from_package(place), place, found)


def source_of(name: str) -> str:
    """Return the source of an encoding, by a name with its digest. Raises ConfigError as `load` does."""
    kind, digest = load(name), digest_of(name)
    return _sources[digest] if digest in _sources else _read(Path(inspect.getfile(kind)))


def remember(source: str) -> None:
    """Use this source for names with its digest, instead of reading the file."""
    _sources[digest_of_source(source)] = source


def in_file(name: str) -> bool:
    """Return whether a name refers to a class in a file."""
    return bool(_FILE.fullmatch(_parse(name)[0]))


def digest_of_source(source: str) -> str:
    """Return the start of the SHA-256 of a source."""
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]


def describe_error(error: BaseException, kinds: Iterable[type[Position]]) -> str:
    """Return an exception as one line, with the last line of code that is in the modules of these encodings."""
    place = place_of(error, kinds)
    return f"{_line(error)} ({place})" if place else _line(error)


def place_of(error: BaseException, kinds: Iterable[type[Position]]) -> str | None:
    """Return the last line of an exception's traceback in the modules of these encodings: `mine.py, line 7`."""
    files = {vars(sys.modules[kind.__module__]).get("__file__") for kind in kinds}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else None


def _path(file: re.Match[str]) -> Path:
    return Path(file["path"]).expanduser()


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"position must be a name, got {name!r}")
    return match["place"], match["digest"]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigError(f"cannot read {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _from_package(name: str) -> type[Position]:
    try:
        kind = entry_points()[name].load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot load the entry point {name}: {_line(error)}") from error
    return _checked(kind, name)


@cache
def _class_in_file(place: str, path: Path, name: str, source: str) -> type[Position]:
    module = _module(path, source)
    own = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }
    if name not in own:
        found = [key for key, value in own.items() if issubclass(value, Position)]
        raise ConfigError(f"{path} defines no class {name!r}; its encodings are {', '.join(found) or 'none'}")
    return _named(_checked(own[name], place), place, digest_of_source(source))


def _module(path: Path, source: str) -> ModuleType:
    """Return the module of a source, which was or would be read from `path`."""
    file = str(path)
    digest = hashlib.sha256(f"{path.absolute()}\0{source}".encode("utf-8", "surrogateescape")).hexdigest()
    module = ModuleType(f"vitab_own_{digest[:DIGITS]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look up the module of a class
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    try:
        exec(compile(source, file, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f" (line {frames[-1].lineno})" if frames else ""
        raise ConfigError(f"cannot import {path}: {_line(error)}{place}") from error
    return module


def _checked(kind: object, place: str) -> type[Position]:
    """Return the class if it is an encoding whose options can be spelled; raise ConfigError otherwise."""
    if not (inspect.isclass(kind) and issubclass(kind, Position)):
        raise ConfigError(f"{place} must be a subclass of vit.positions.Position, got {kind!r}")
    if kind.__module__.partition(".")[0] == "vit":
        raise ConfigError(f"{place} must be an encoding of its own, got {kind.__name__} of vit")
    if "__dataclass_params__" not in vars(kind):
        raise ConfigError(f"{place} must be decorated with @dataclass(frozen=True), as its fields are its options")
    for option in fields(kind):
        if not isinstance(option.default, bool | int | float | str):
            raise ConfigError(
                f"option {option.name} of {place} must have a default, such as `option(1.0, ...)`: a number, a "
                "string, True or False"
            )
    return kind


def _named(kind: type[Position], place: str, digest: str) -> type[Position]:
    kind.name = f"{place}@{digest}"
    return kind


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

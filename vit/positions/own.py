"""Encodings that are not in this package: a class in a Python file, or an entry point of an installed package.

Their name includes the start of the SHA-256 of their source, `mine.py:Mine@0123456789ab`, so that runs with different
sources are different runs.
"""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from functools import cache
from pathlib import Path

from vit.errors import ConfigError
from vit.positions.base import Position

ENTRY_POINTS = "vitab.positions"
"""Group of the entry points of packages that provide encodings."""
DIGITS = 12
"""Hexadecimal digits of the SHA-256 in a name."""

_NAME = re.compile(rf"(?P<place>.+?)(?:@(?P<digest>[0-9a-f]{{{DIGITS}}}))?")
_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>\w+)")


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


def without_folder(name: str) -> str:
    """Return the name without the folder of the file: `mine.py:Mine@0123456789ab`."""
    return Path(name).name if _FILE.fullmatch(_parse(name)[0]) else name


@cache
def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Return the encodings of installed packages by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


@cache
def load(name: str) -> type[Position]:
    """Return the class that a name refers to. Its `name` includes the digest of its source.

    Raises ConfigError, in one line, if the source cannot be read, raises an exception, has no such encoding, or differs
    from the digest in the name.
    """
    place, digest = _parse(name)
    file = _FILE.fullmatch(place)
    kind = _from_file(Path(file["path"]), file["name"]) if file else _from_package(place)
    if not (inspect.isclass(kind) and issubclass(kind, Position)):
        raise ConfigError(f"{place} must be a subclass of vit.positions.Position, got {kind!r}")
    if "__dataclass_params__" not in vars(kind):
        raise ConfigError(f"{place} must be decorated with @dataclass(frozen=True), as its fields are its options")
    source = Path(inspect.getfile(kind)).read_bytes().replace(b"\r\n", b"\n")
    found = hashlib.sha256(source).hexdigest()[:DIGITS]
    if digest not in (None, found):
        raise ConfigError(f"{place} has changed: its SHA-256 must start with {digest}, got {found}")
    kind.name = f"{place}@{found}"
    return kind


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return match["place"], match["digest"]


def _from_package(name: str) -> object:
    try:
        return entry_points()[name].load()
    except Exception as error:
        raise ConfigError(f"cannot load the entry point {name}: {_line(error)}") from error


def _from_file(path: Path, name: str) -> object:
    module_name = f"vitab_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:DIGITS]}"
    if not path.is_file():
        raise ConfigError(f"cannot read {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up the module of a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ConfigError(f"cannot import {path}: {_line(error)}") from error
    if not hasattr(module, name):
        kinds = [key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, Position)]
        found = [key for key in kinds if vars(module)[key].__module__ == module_name]
        raise ConfigError(f"{path} has no class {name!r}; its encodings are {', '.join(found) or 'none'}")
    return getattr(module, name)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

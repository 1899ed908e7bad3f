"""Classes that are not in this package: in a Python file, or an entry point of an installed package.

Their name includes the start of the SHA-256 of their source, `mine.py:Mine@0123456789ab`, so that results of different
sources are told apart. The source of a file is read once; other processes can be given it (`remember`).
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
from typing import Generic, TypeVar

from vit.errors import ConfigError
from vit.options import Options

DIGITS = 12
"""Hexadecimal digits of the SHA-256 in a name."""
PACKAGES = ("vit", "ablations")
"""Packages whose classes have names of their own."""

_NAME = re.compile(rf"(?P<place>.+?)(?:@(?P<digest>[0-9a-f]{{{DIGITS}}}))?")
_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>\w+)")
_sources: dict[str, str] = {}
"""Sources of files by digest."""

Kind = TypeVar("Kind", bound=Options)


class OwnClasses(Generic[Kind]):
    """The classes with one base class that are in files and installed packages."""

    def __init__(self, base: type[Kind], *, base_name: str, group: str, what: str, noun: str) -> None:
        """Classes are derived from `base`, which messages call `base_name`.

        `group` is that of the entry points of packages. In messages, `what` is the word for what has the name, and
        `noun` for the class.
        """
        self.base, self.base_name, self.what, self.noun = base, base_name, what, noun
        self.ENTRY_POINTS = group
        self._sources = _sources
        self._class_in_file = cache(self._load_class)

    def is_own(self, name: str) -> bool:
        """Return whether a name refers to a class in a file, or to an installed entry point."""
        place = self._parse(name)[0]
        return bool(_FILE.fullmatch(place)) or place in self.entry_points()

    def digest_of(self, name: str) -> str | None:
        """Return the digest in a name, or None. A name that has one is complete without reading the source."""
        return self._parse(name)[1]

    def short_name(self, name: str) -> str:
        """Return the name without folder, file and digest: `Mine` for `lab/mine.py:Mine@0123456789ab`."""
        place = self._parse(name)[0]
        file = _FILE.fullmatch(place)
        return file["name"] if file else place

    def without_digest(self, name: str) -> str:
        """Return the name as it is given: `lab/mine.py:Mine` for `lab/mine.py:Mine@0123456789ab`."""
        return self._parse(name)[0]

    def without_folder(self, name: str) -> str:
        """Return the name without the folder of the file: `mine.py:Mine@0123456789ab`."""
        return Path(name).name if _FILE.fullmatch(self._parse(name)[0]) else name

    def in_file(self, name: str) -> bool:
        """Return whether a name refers to a class in a file."""
        return bool(_FILE.fullmatch(self._parse(name)[0]))

    def entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Return the classes of installed packages by name."""
        return _entry_points(self.ENTRY_POINTS)

    def load(self, name: str) -> type[Kind]:
        """Return the class that a name refers to. Its `name` includes the digest of its source.

        Raises ConfigError, in one line, if the source cannot be read, raises an exception, has no such class, or
        differs from the digest in the name.
        """
        place, digest = self._parse(name)
        if file := _FILE.fullmatch(place):
            source = _sources.get(digest or "") or _read(_path(file))
            found = self.digest_of_source(source)
        else:
            found = self.digest_of_source(_read(Path(inspect.getfile(self._from_package(place)))))
        if digest not in (None, found):
            raise ConfigError(f"{place} has changed: its SHA-256 must start with {digest}, got {found}")
        if file:
            _sources[found] = source
            return self._class_in_file(place, _path(file), file["name"], source)
        return _named(self._from_package(place), place, found)

    def source_of(self, name: str) -> str:
        """Return the source of a class, by a name with its digest. Raises ConfigError as `load` does."""
        kind, digest = self.load(name), self.digest_of(name)
        return _sources[digest] if digest in _sources else _read(Path(inspect.getfile(kind)))

    def remember(self, source: str) -> None:
        """Use this source for names with its digest, instead of reading the file."""
        _sources[self.digest_of_source(source)] = source

    def digest_of_source(self, source: str) -> str:
        """Return the start of the SHA-256 of a source."""
        return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]

    def describe_error(self, error: BaseException, kinds: Iterable[type[Kind]]) -> str:
        """Return an exception as one line, with the last line of code that is in the modules of these classes."""
        place = self.place_of(error, kinds)
        return f"{_line(error)} ({place})" if place else _line(error)

    def place_of(self, error: BaseException, kinds: Iterable[type[Kind]]) -> str | None:
        """Return the last line of an exception's traceback in the modules of these classes: `mine.py, line 7`."""
        files = {vars(sys.modules[kind.__module__]).get("__file__") for kind in kinds}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else None

    def _parse(self, name: str) -> tuple[str, str | None]:
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"{self.what} must be a name, got {name!r}")
        return match["place"], match["digest"]

    def _from_package(self, name: str) -> type[Kind]:
        try:
            kind = self.entry_points()[name].load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"cannot load the entry point {name}: {_line(error)}") from error
        return self._checked(kind, name)

    def _load_class(self, place: str, path: Path, name: str, source: str) -> type[Kind]:
        module = _module(path, source)
        own = {
            key: value
            for key, value in vars(module).items()
            if inspect.isclass(value) and value.__module__ == module.__name__
        }
        if name not in own:
            found = [key for key, value in own.items() if issubclass(value, self.base)]
            raise ConfigError(f"{path} defines no class {name!r}; its {self.noun}s are {', '.join(found) or 'none'}")
        return _named(self._checked(own[name], place), place, self.digest_of_source(source))

    def _checked(self, kind: object, place: str) -> type[Kind]:
        """Return the class if it has the base class and options that can be spelled; raise ConfigError otherwise."""
        if not (inspect.isclass(kind) and issubclass(kind, self.base)):
            raise ConfigError(f"{place} must be a subclass of {self.base_name}, got {kind!r}")
        if (package := kind.__module__.partition(".")[0]) in PACKAGES:
            article = "an" if self.noun[0] in "aeiou" else "a"
            raise ConfigError(f"{place} must be {article} {self.noun} of its own, got {kind.__name__} of {package}")
        if "__dataclass_params__" not in vars(kind):
            raise ConfigError(f"{place} must be decorated with @dataclass(frozen=True), as its fields are its options")
        for option in fields(kind):
            if not isinstance(option.default, bool | int | float | str):
                raise ConfigError(
                    f"option {option.name} of {place} must have a default, such as `option(1.0, ...)`: a number, a "
                    "string, True or False"
                )
        return kind


@cache
def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def _path(file: re.Match[str]) -> Path:
    return Path(file["path"]).expanduser()


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigError(f"cannot read {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


@cache
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


def _named(kind: type[Kind], place: str, digest: str) -> type[Kind]:
    kind.name = f"{place}@{digest}"
    return kind


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

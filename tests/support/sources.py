"""Sources that tests write themselves."""

from pathlib import Path

from ablations.data.sources import Source, divide, open_source


def files(root: Path, *names: str) -> Path:
    """Write files that nobody decodes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def rows(source: Source) -> list[tuple[str, str, str]]:
    """Return name, class and part of each picture."""
    classes = [source.class_names[label] for label in source.labels]
    return list(zip(source.names, classes, source.parts.tolist(), strict=True))


def listed(kind: str, path: Path, columns: str = "") -> list[tuple[str, str, str]]:
    return rows(open_source(kind, path, columns))


def divided(kind: str, path: Path, columns: str = "") -> list[tuple[str, str, str]]:
    return rows(divide(open_source(kind, path, columns)))

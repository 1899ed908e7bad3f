"""The version of the code that a run's result depends on: one digest per component.

A result depends on the model, the training loop, one backend and one positional encoding, and on nothing else: adding
an encoding or editing a figure leaves finished runs valid. Dataset readers are not a component, because the pixels are
part of a run's key. Comments, docstrings and blank lines do not count.
"""

import ast
import hashlib
import importlib.util
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from ablations.machine import ROOT

COMPONENTS: dict[str, tuple[str, ...]] = {
    "model": (
        "vit/config.py",
        "vit/dropout.py",
        "vit/layers.py",
        "vit/model.py",
        "vit/options.py",
        "vit/optim.py",
        "vit/parameters.py",
        "vit/random.py",
        "vit/workspace.py",
        "vit/backend/ops.py",
        "vit/positions/base.py",
    ),
    "training": (
        "ablations/config/model.py",
        "ablations/data/augmentation.py",
        "ablations/data/loader.py",
        "ablations/data/normalisation.py",
        "ablations/data/split.py",
        "ablations/data/trivial_augment.py",
        "ablations/training/outcome.py",
        "ablations/training/stack.py",
        "ablations/training/trainer.py",
    ),
    "backend numpy": (
        "vit/engine.py",
        "vit/lane.py",
        "vit/backend/cpu_kernels.py",
        "vit/backend/position_kernels.py",
        "vit/backend/gemm.py",
        "vit/backend/numpy_ops.py",
        "vit/backend/probe.py",
        "vit/backend/program.py",
    ),
    "backend cupy": (
        "ablations/training/gpu_stack.py",
        "vit/graph_engine.py",
        "vit/backend/probe.py",
        "vit/backend/cupy_ops.py",
        "vit/backend/cuda/*.py",
        "vit/backend/cuda/src/*",
    ),
}
"""Sources by component, relative to the root of the code. A position is a component of its own, `position NAME`."""


@cache
def code_version(position: str, backend: str) -> dict[str, str]:
    """Return the SHA-256 of each component that a run with this position and backend depends on."""
    version = {name: component_digest(COMPONENTS[name]) for name in ("model", "training", f"backend {backend}")}
    return version | _position_versions(position)


def _position_versions(position: str) -> dict[str, str]:
    """Return the digest of each encoding of a sum, without its options.

    That of one in a file or a package is part of its name; there is another of the modules that it imports from vit or
    its own package, if its source can be read here.
    """
    from vit import ConfigError
    from vit.positions import own, part_names

    names = part_names(position)
    digests = {}
    for name in names:
        label = f"position {own.without_digest(own.without_folder(name))}"
        if (digest := own.digest_of(name)) is None:
            digests[label] = component_digest(position_sources(name))
            continue
        digests[label] = digest
        with suppress(ConfigError):
            if imported := position_sources(name):
                digests[f"{label} (imports)"] = component_digest(imported)
    return digests | ({"position sum": component_digest(("vit/positions/combined.py",))} if len(names) > 1 else {})


@cache
def checkpoint_digest(position: str, backend: str) -> str:
    """Return the SHA-256 of all code that a checkpoint depends on; only the same code resumes from it."""
    digests = [*code_version(position, backend).values(), component_digest(("ablations/training/checkpoint.py",))]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def recorded_version(environment: dict[str, object]) -> dict[str, str]:
    """Return the code version in a run's environment; that of runs before components had two digests."""
    code = environment.get("code")
    if isinstance(code, dict):
        return {str(name): str(digest) for name, digest in code.items()}
    old = {"model": environment.get("vit_sha256"), "training": environment.get("training_sha256")}
    return {name: str(digest) for name, digest in old.items() if digest}


@cache
def package_digest() -> str:
    """Return the SHA-256 of all sources of `vit` and `ablations`."""
    return component_digest(("vit/**/*.py", "vit/backend/cuda/src/*", "ablations/**/*.py"))


def position_sources(position: str) -> tuple[str, ...]:
    """Return the source of a positional encoding and of the modules that it imports, as `imported_sources` does.

    Without its own source if a digest of it is in the name.
    """
    from vit.positions import kind_of, own

    return imported_sources(kind_of(position), own.source_of(position) if own.digest_of(position) else None)


def imported_sources(kind: type, text: str | None) -> tuple[str, ...]:
    """Return the source of a class and of the modules that it imports from its package or folder.

    `text` is the source of a class that is not in this package; its own file is then left out, and encodings that it
    imports are included. The rest of vit does not count: it belongs to the components, or cannot change a result. Nor
    does the registry, which may get new encodings.
    """
    source, outside = Path(inspect.getfile(kind)).resolve(), text is not None
    depth = kind.__module__.count(".") + (source.name == "__init__.py")
    folder = source.parents[max(0, depth - 1)]
    shared = ("base", "__init__", "combined", "spelling", "own_encodings")
    encodings = {*_matching("vit/positions/**/*.py")} - {
        path for name in shared for path in _matching(f"vit/positions/{name}.py")
    }
    elsewhere = {*_matching("vit/**/*.py"), *_matching("ablations/**/*.py")} - encodings
    found: dict[Path, None] = {}
    left: list[tuple[str, Path, str | None]] = [(kind.__module__, source, text)]
    while left:
        module, path, text = left.pop()
        found[path] = None
        left += [
            (name, imported, None)
            for name in _imported_names(path, module, text)
            if (imported := _source_of(name)) and imported not in found and imported not in elsewhere
            if (folder in imported.parents and "site-packages" not in imported.relative_to(folder).parts)
            or (outside and imported in encodings)
        ]
    if outside:
        del found[source]
    return tuple(sorted(map(str, found)))


def _imported_names(path: Path, module: str, text: str | None) -> Iterator[str]:
    """Yield the names of modules that a source imports, and those that it may import (`from PACKAGE import NAME`).

    `text` is the source if it is not read from `path`.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes() if text is None else text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _source_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # no module, or a package that raises when it is imported, which the encoding does without
        return None
    return Path(spec.origin).resolve() if spec and spec.origin and spec.origin.endswith(".py") else None


def component_digest(patterns: tuple[str, ...]) -> str:
    """Return the SHA-256 over names and contents of the sources that match, without comments and docstrings.

    Patterns are relative to the root of the code, or absolute paths.
    """
    paths = {path for pattern in patterns for path in _matching(pattern)}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0".encode())
        digest.update(hashlib.sha256(significant_source(path).encode()).digest())
    return digest.hexdigest()


def significant_source(path: Path) -> str:
    """Return a Python or CUDA source without comments, docstrings, trailing spaces and blank lines."""
    text = path.read_text(encoding="utf-8")
    lines = _without_docstrings(text) if path.suffix == ".py" else _COMMENT.sub(_kept, text).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*|/\*.*?\*/""", re.DOTALL)
"""A string or character literal of C++, which may hold what looks like a comment; or a comment."""


def _kept(found: re.Match[str]) -> str:
    return found[1] or ""


def _without_docstrings(text: str) -> list[str]:
    """Return the lines of a Python source with comments cut off and strings that stand alone (docstrings) removed."""
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    rows = [line.encode() for line in lines]  # the columns of a syntax tree count bytes
    alone = [
        (node.lineno - 1, node.col_offset, (node.end_lineno or node.lineno) - 1, node.end_col_offset or 0)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    for first, start, last, end in sorted(alone, reverse=True):
        rows[first : last + 1] = [rows[first][:start] + rows[last][end:], *[b""] * (last - first)]
    return [row.decode() for row in rows]


def _matching(pattern: str) -> list[Path]:
    return [Path(pattern)] if Path(pattern).is_absolute() else sorted(ROOT.glob(pattern))

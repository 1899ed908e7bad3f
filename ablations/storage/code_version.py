"""The version of the code that a run's result depends on: one digest per component.

A result depends on the model, the training loop, one backend and one positional encoding, and on nothing else: adding
an encoding or editing a figure leaves finished runs valid. Dataset readers are not a component, because the pixels are
part of a run's key. Comments, docstrings and blank lines do not count.
"""

import ast
import hashlib
import inspect
import io
import re
import tokenize
from functools import cache
from pathlib import Path

from ablations.machine import ROOT

COMPONENTS: dict[str, tuple[str, ...]] = {
    "model": (
        "vit/config.py",
        "vit/dropout.py",
        "vit/layers.py",
        "vit/model.py",
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
        "ablations/training/stack.py",
        "ablations/training/trainer.py",
    ),
    "backend numpy": (
        "vit/engine.py",
        "vit/lane.py",
        "vit/backend/cpu_kernels.py",
        "vit/backend/gemm.py",
        "vit/backend/numpy_ops.py",
        "vit/backend/program.py",
    ),
    "backend cupy": (
        "ablations/training/gpu_stack.py",
        "vit/graph_engine.py",
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
    return version | {f"position {position}": component_digest(position_sources(position))}


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
    """Return the source of a positional encoding and of the modules of `vit.positions` that it imports."""
    from vit.positions import POSITIONS

    found: dict[Path, None] = {}
    left = [Path(inspect.getfile(POSITIONS[position])).resolve()]
    while left:
        path = left.pop()
        if path.name in ("base.py", "__init__.py") or path in found:
            continue
        found[path] = None
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vit.positions."):
                left.append(path.with_name(f"{str(node.module).rpartition('.')[2]}.py"))
    return tuple(sorted(str(path) for path in found))


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
    lines = _without_docstrings(text) if path.suffix == ".py" else _COMMENT.sub("", text).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def _without_docstrings(text: str) -> list[str]:
    """Return the lines of a Python source with comments cut off and strings that stand alone (docstrings) removed."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for row in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[row - 1] = ""
    return lines


def _matching(pattern: str) -> list[Path]:
    return [Path(pattern)] if Path(pattern).is_absolute() else sorted(ROOT.glob(pattern))

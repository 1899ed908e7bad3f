"""A reading of the product's calls of CuPy, cuBLAS and NVRTC beside the signatures that these libraries have.

Nothing is called: the calls are read from the source text, and the signatures from CuPy's modules or from C headers. So
it needs no GPU, and names every call that is wrong and not only the first.
"""

import ast
import ctypes
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import nvrtc
from vit.backend.cuda import cublas

ROOT = Path(__file__).parents[2]
CUPY_MODULE = "vit/backend/cupy_ops.py"
SHARED = ("vit/backend/ops.py", "vit/backend/cuda", "vit/graph_engine.py", "vit/layers.py", "vit/model.py")
SHARED += ("vit/parameters.py", "vit/positions", "vit/workspace.py")
"""Sources whose array functions run on CuPy as on NumPy."""
ON_HOST = {"vit/backend/cuda/sources.py", "vit/positions/own_encodings.py", "vit/positions/spelling.py"}
OBJECTS = {
    "stream": "cuda.Stream",
    "self.stream": "cuda.Stream",
    "graph": "cuda.graph.Graph",
    "self._graph": "cuda.graph.Graph",
    "self._event": "cuda.Event",
    "module": "RawModule",
    "function": "RawKernel",
    "runtime": "cuda.runtime",
}
"""Class or module of the variables of `CUPY_MODULE` that hold an object of CuPy."""
XP = {"xp", "self.xp", "ops.xp", "self.ops.xp", "model.ops.xp"}
"""Spellings of the array library in `SHARED`."""
NO_ARRAYS = ("np", "math", "ops", "self", "self.kernels", "self.ops", "super()")
"""Objects in `SHARED` that are no arrays, though a method of theirs has the name of one of arrays."""
KERNEL_CALL = "(self, grid, block, args, shared_mem=0, stream=None, enable_cooperative_groups=False)"
"""Of `cupy.cuda.Function`, to which `RawKernel` passes its keywords; it has no signature of its own."""


@dataclass(frozen=True)
class Use:
    """A name of CuPy's that the product uses, and how it is called, if it is."""

    name: str
    """Such as "cuda.Stream.begin_capture", below `cupy`."""
    where: str
    call: tuple[int, tuple[str, ...]] | None = None
    """Number of positional arguments, and names of the others."""

    @property
    def text(self) -> str:
        if self.call is None:
            return f"cupy.{self.name}"
        arguments = [*["..."] * self.call[0], *(f"{name}=" for name in self.call[1])]
        return f"cupy.{self.name}({', '.join(arguments)})"


@cache
def uses() -> tuple[Use, ...]:
    """Return every use of CuPy in the product, once for each way of calling it."""
    found: dict[tuple[Any, ...], Use] = {}
    for path in _sources():
        for use in _uses_in(path):
            found.setdefault((use.name, use.call), use)
    return tuple(sorted(found.values(), key=lambda use: (use.name, str(use.call))))


def _sources() -> list[str]:
    paths = [CUPY_MODULE]
    for source in SHARED:
        path = ROOT / source
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        paths += [str(file.relative_to(ROOT)) for file in files]
    return [path for path in paths if path not in ON_HOST]


def _uses_in(path: str) -> Iterator[Use]:
    tree = ast.parse((ROOT / path).read_text())
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        call = called.get(id(node))
        name = _name_of(node, path, is_called=call is not None)
        if name is None or (id(node) in inner and call is None):
            continue
        yield Use(name, f"{path}:{node.lineno}", None if call is None else _arguments(call))


def _name_of(node: ast.expr, path: str, *, is_called: bool) -> str | None:
    """Return the name of an expression below `cupy`, None if it is not CuPy's."""
    text = ast.unparse(node)
    head, _, attribute = text.rpartition(".")
    if made := re.fullmatch(r"cupy\.([\w.]+)\(.*\)", head):  # of an object that the expression makes
        return f"{made[1]}.{attribute}"
    if path == CUPY_MODULE:
        if re.fullmatch(r"cupy\.[\w.]+", text):
            return text.removeprefix("cupy.")
        if head in OBJECTS:
            return f"{OBJECTS[head]}.{attribute}"
        return f"{OBJECTS[text]}.__call__" if is_called and text == "function" else None
    for library in XP:
        if re.fullmatch(rf"{re.escape(library)}\.[a-z][\w.]*", text):
            return text.removeprefix(f"{library}.")
    if is_called and head and head not in NO_ARRAYS and attribute in _ARRAY_METHODS:
        return f"ndarray.{attribute}"
    return None


_ARRAY_METHODS = {name for name in dir(np.ndarray) if not name.startswith("_")} - {"copy"}
"""Methods by which an array is recognised. `copy` is one of dictionaries too; arrays take no argument there either."""


def _arguments(call: ast.Call) -> tuple[int, tuple[str, ...]] | None:
    if any(isinstance(argument, ast.Starred) for argument in call.args) or any(k.arg is None for k in call.keywords):
        return None
    return len(call.args), tuple(sorted(str(keyword.arg) for keyword in call.keywords))


# Signatures of CuPy

Lookup = Callable[[str], "str | None"]
"""Function that returns the signature of a name below `cupy`: "" if it has none, None if there is no such name."""


def of_module(cupy: ModuleType) -> Lookup:
    """Return a lookup in the installed CuPy, which can be imported without a GPU."""

    def look(name: str) -> str | None:
        if name == "RawKernel.__call__":
            return KERNEL_CALL
        found: Any = cupy
        for part in name.split("."):
            if found is cupy.cuda.Stream and part == "ptr":  # which only its objects have
                found = found.null
            if not hasattr(found, part):
                return None
            found = getattr(found, part)
        return signature_text(found, name.rpartition(".")[2])

    return look


def signature_text(value: Any, name: str) -> str:
    """Return the signature of a function or class called `name` without types, or "" if it cannot be found out.

    Cython writes it into the first lines of the documentation, with C types.
    """
    if not callable(value):
        return ""
    if hasattr(value, "nin"):  # a ufunc
        inputs = ", ".join(f"x{i + 1}" for i in range(value.nin))
        return f"({inputs}, /, out=None, *, casting=None, dtype=None)"
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return _documented(value, name)
    plain = [p.replace(annotation=p.empty, default=p.default if p.default is p.empty else None) for p in parameters]
    return str(inspect.Signature(plain))


def _documented(value: Any, name: str) -> str:
    found = re.match(rf"[\w.]*\b{re.escape(name)}(\(.*?\))(?:\s*->.*)?$", value.__doc__ or "", re.S | re.M)
    if not found:
        return ""
    parts = [part.replace("\\", "").strip() for part in _split(found[1][1:-1])]
    return f"({', '.join(_parameter(part) for part in parts if part)})"


def _split(text: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _parameter(text: str) -> str:
    """Return a parameter without its C type: "str path=None" becomes "path=None"."""
    name, equals, _ = text.partition("=")
    name = name.split(":")[0].split()[-1] if name.strip() not in ("/", "*") else name.strip()
    return f"{name}=None" if equals else name


def call_problem(use: Use, signature: str | None) -> str | None:
    """Return what is wrong with a use, in a line, or None."""
    if signature is None:
        return f"{use.where}: {use.text}: there is no cupy.{use.name}"
    if use.call is None or not signature:
        return None
    own = use.call[0] + signature.startswith("(self")
    try:
        _parsed(signature).bind(*[None] * own, **dict.fromkeys(use.call[1]))
    except TypeError as error:
        return f"{use.where}: {use.text}: {error}; the signature is {signature}"
    return None


def _parsed(text: str) -> inspect.Signature:
    arguments = ast.parse(f"def function{text}: ...").body[0].args  # type: ignore[attr-defined]
    plain = [*arguments.posonlyargs, *arguments.args]
    optional = len(plain) - len(arguments.defaults)
    found = []
    for i, each in enumerate(plain):
        kind = (
            inspect.Parameter.POSITIONAL_ONLY
            if i < len(arguments.posonlyargs)
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        found.append(inspect.Parameter(each.arg, kind, default=None if i >= optional else inspect.Parameter.empty))
    if arguments.vararg:
        found.append(inspect.Parameter(arguments.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        empty = inspect.Parameter.empty if default is None else None
        found.append(inspect.Parameter(each.arg, inspect.Parameter.KEYWORD_ONLY, default=empty))
    if arguments.kwarg:
        found.append(inspect.Parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(found)


def cupy_problems(look: Lookup) -> list[str]:
    """Return what is wrong with the product's uses of CuPy, in a line each."""
    return [problem for use in uses() if (problem := call_problem(use, look(use.name)))]


# Signatures of C libraries

WORD = {"int": "int", "int64_t": "long", "long long": "long", "long long int": "long", "size_t": "size"}
"""C types that are passed as numbers, by what ctypes calls them here; enumerations are "int", all others pointers."""
CONSTANTS = {
    "CUDA_R_32F": cublas._DATA_TYPE["float"],
    "CUDA_R_16BF": cublas._DATA_TYPE["bf16"],
    "CUBLAS_COMPUTE_32F": cublas._COMPUTE_TYPE["float32"],
    "CUBLAS_COMPUTE_32F_FAST_TF32": cublas._COMPUTE_TYPE["tf32"],
    "CUBLAS_GEMM_DEFAULT": cublas._DEFAULT_ALGORITHM,
    "CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION": cublas._SUM_IN_FLOAT32,
    "CUBLAS_OP_N": cublas._NO,
    "CUBLAS_OP_T": cublas._TRANSPOSED,
}
"""Values that the product passes, by their names in cublas_api.h and library_types.h."""
KINDS = {ctypes.c_int: "int", ctypes.c_longlong: "long", ctypes.c_size_t: "size"}


def declared(library: Any) -> dict[str, str]:
    """Return what a ctypes library is declared to take and return, by function, such as "int(pointer, int)"."""
    return {name: f"{_kind(f.restype)}({', '.join(map(_kind, f.argtypes))})" for name, f in library.functions.items()}


def _kind(kind: Any) -> str:
    return KINDS.get(kind, "pointer")


class Declarations:
    """Stands for a ctypes library, to read what is declared of it."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return self.functions.setdefault(name, _Function())


class _Function:
    argtypes: tuple[Any, ...] = ()
    restype: Any = None


def in_header(header: str, name: str) -> str | None:
    """Return a C function as `declared` does, None if the header does not declare it."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.S)
    found = re.search(rf"^([\w *]+?)\b{name}\(([^)]*)\);", text, re.M)
    if found is None:
        return None
    enumerations = set(re.findall(r"typedef enum[^{]*\{[^}]*\}\s*(\w+);", text))
    enumerations |= {"cudaDataType"}

    def kind(parameter: str) -> str:
        words = re.sub(r"\bconst\b|\b\w+API\b", "", parameter).strip()
        if "*" in words or "[" in words:
            return "pointer"
        for size in (words, words.rpartition(" ")[0].strip()):  # with or without a name
            if size in WORD:
                return WORD[size]
            if size in enumerations:
                return "int"
        return "pointer"

    return f"{kind(found[1])}({', '.join(kind(p) for p in found[2].split(',') if p.strip() != 'void')})"


def constant_in_header(header: str, name: str) -> int | None:
    """Return the value of a name of an enumeration, None if the header does not give it one."""
    found = re.search(rf"\b{name}\s*=\s*(-?\d+)", header)
    return int(found[1]) if found else None


def library_problems(functions: Mapping[str, str | None], constants: Mapping[str, int | None]) -> list[str]:
    """Return where the declarations of cuBLAS and NVRTC differ from those of their headers, in a line each."""
    problems = []
    for name, ours in declarations().items():
        if ours != functions.get(name):
            problems.append(f"{name} is {functions.get(name)} in the header, and declared as {ours}")
    for name, value in CONSTANTS.items():
        if value != constants.get(name):
            problems.append(f"{name} is {constants.get(name)} in the header, and used as {value}")
    return problems


def declarations() -> dict[str, str]:
    """Return what the product and its benchmarks declare of cuBLAS and NVRTC, as `declared`."""
    stand_in = Declarations()
    cublas.declare(stand_in)
    nvrtc.declare(stand_in)
    return declared(stand_in)

"""What the product calls of CuPy, cuBLAS and NVRTC, beside the signatures that their wheels have."""

import inspect
import json
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import signatures
from benchmarks.gpu.signatures import Use
from tests.golden.make_signatures import FILE
from tests.support import fake_cupy

WHEELS: dict[str, Any] = json.loads(FILE.read_text())
"""What CuPy 14 for CUDA 13 and CuPy 13 for CUDA 12 are, and the headers of their libraries, as read by the script."""
REMEDY = "run python -m tests.golden.make_signatures, as it says"


def test_both_versions_of_cuda_are_read() -> None:
    cupy = {name: package for cuda in WHEELS.values() for name, package in cuda["versions"].items() if "cupy" in name}
    assert {name: version.split(".")[0] for name, version in cupy.items()} == {
        "cupy-cuda12x": "13",
        "cupy-cuda13x": "14",
    }


@pytest.mark.parametrize("cuda", WHEELS)
def test_every_use_of_cupy_fits_its_signature(cuda: str) -> None:
    known = WHEELS[cuda]["cupy"]
    assert {use.name for use in signatures.uses()} <= known.keys(), REMEDY
    assert signatures.cupy_problems(known.get) == []


@pytest.mark.parametrize("cuda", WHEELS)
def test_every_declaration_is_that_of_the_header(cuda: str) -> None:
    assert signatures.library_problems(WHEELS[cuda]["functions"], WHEELS[cuda]["constants"]) == []


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed: its signatures are those of the file")
def test_the_installed_cupy_is_as_the_file_says() -> None:
    import cupy

    assert signatures.cupy_problems(signatures.of_module(cupy)) == []


class TestReading:
    def test_all_kinds_of_uses_are_found(self) -> None:
        found = {(use.name, use.call) for use in signatures.uses()}
        assert {
            ("RawModule", (0, ("code", "name_expressions", "options"))),
            ("RawKernel.__call__", (3, ("shared_mem", "stream"))),
            ("cuda.Device.compute_capability", None),
            ("cuda.graph.Graph.upload", (1, ())),
            ("cuda.Stream.ptr", None),
            ("ndarray.swapaxes", (2, ())),
            ("linalg.eigh", (1, ())),
            ("sum", (1, ("axis", "out"))),
        } <= found

    @pytest.mark.parametrize(
        ("call", "signature", "said"),
        [
            ((1, ("stream",)), None, "there is no cupy.f"),
            ((3, ()), "(a, b)", "too many positional arguments; the signature is (a, b)"),
            ((1, ("where",)), "(x1, /, out=None, *, casting=None, dtype=None)", "unexpected keyword argument 'where'"),
            ((0, ()), "(shape, dtype=None)", "missing a required argument: 'shape'"),
            ((1, ("axis",)), "(a, *, axis=None)", None),
            ((1, ()), "(self, value)", None),
            ((2, ("any",)), "(*args, **kwargs)", None),
            ((5, ()), "", None),
            (None, "(a, b)", None),
        ],
    )
    def test_a_wrong_call_is_told(self, call: Any, signature: str | None, said: str | None) -> None:
        problem = signatures.call_problem(Use("f", "here.py:3", call), signature)
        assert problem is None if said is None else said in (problem or "")

    def test_signatures_in_the_documentation_of_cython(self) -> None:
        class Documented:
            """Kind(str code=None, *, tuple options=(), bool translate=False)

            Text (in brackets)."""

            __signature__ = "none"

            def mean(self) -> None:
                """_base.mean(self, axis=None, \\*, keepdims=False) -> _base"""

            mean.__signature__ = "none"  # type: ignore[attr-defined]

        assert signatures.signature_text(Documented, "Kind") == "(code=None, *, options=None, translate=None)"
        assert signatures.signature_text(Documented.mean, "mean") == "(self, axis=None, *, keepdims=None)"
        assert signatures.signature_text(print, "no such name") == "(*args, sep=None, end=None, file=None, flush=None)"
        assert signatures.signature_text(3, "three") == ""

    def test_a_lookup_in_a_module(self) -> None:
        cuda = SimpleNamespace(Stream=SimpleNamespace(null=SimpleNamespace(ptr=0)))
        module = ModuleType("cupy")
        module.__dict__.update(cuda=cuda, stack=lambda tup, axis=0: None)
        look = signatures.of_module(module)
        assert [look(name) for name in ("stack", "cuda.Stream.ptr", "cuda.Event", "cuda.Event.record")] == [
            "(tup, axis=None)",
            "",
            None,
            None,
        ]

    def test_a_header(self) -> None:
        header = """
            typedef enum { ONE = 1, TWO = 0x02 } kind_t; /* int no(int); */
            LIBAPI kind_t LIBWINAPI work(handle_t h, kind_t kind, const void* a, size_t n, long long int s, int64_t);
            const char* text(kind_t kind);
        """
        assert signatures.in_header(header, "work") == "int(pointer, int, pointer, size, long, long)"
        assert signatures.in_header(header, "text") == "pointer(int)"
        assert signatures.in_header(header, "no") is None
        assert [signatures.constant_in_header(header, name) for name in ("ONE", "THREE")] == [1, None]

    def test_a_wrong_declaration_is_told(self) -> None:
        functions = signatures.declarations() | {"cublasSetMathMode": "int(pointer, size)"}
        constants = signatures.CONSTANTS | {"CUBLAS_OP_T": 2}
        assert signatures.library_problems(functions, constants) == [
            "cublasSetMathMode is int(pointer, size) in the header, and declared as int(pointer, int)",
            "CUBLAS_OP_T is 2 in the header, and used as 1",
        ]


FAKES = {
    "cuda.Stream": fake_cupy.Stream,
    "cuda.Event": fake_cupy.Event,
    "cuda.graph.Graph": fake_cupy.Graph,
    "RawKernel": fake_cupy.Function,
}


@pytest.mark.parametrize("cuda", WHEELS)
@pytest.mark.parametrize("name", FAKES)
def test_the_fake_takes_what_cupy_takes(name: str, cuda: str) -> None:
    """So that a call which the fake accepts is one that CuPy accepts."""
    known = WHEELS[cuda]["cupy"]
    for member, function in vars(FAKES[name]).items():
        theirs = known.get(f"{name}.{member}")
        if theirs and inspect.isfunction(function):
            ours, real = inspect.signature(function).parameters, signatures._parsed(theirs).parameters
            assert [*ours] == [*real][: len(ours)] or name == "RawKernel", member

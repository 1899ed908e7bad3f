"""Every CUDA source compiles for the chips that matter, as NVRTC does it at run time, without a GPU."""

import re

import pytest

from benchmarks import cubins
from benchmarks.nvrtc import REMEDY, Nvrtc, compile_all, library
from tests.support.fake_cupy import OWN_SHARED
from vit.backend.cuda import sources as cuda_sources
from vit.backend.cuda.training import TABLE_BYTES

pytestmark = pytest.mark.skipif(library() is None, reason=f"NVRTC is not installed: {REMEDY}")


ARCHITECTURES = ("sm_80", "sm_90")
OLD = "sm_75"
"""A chip that multiplies no bf16: it has the kernels of float32."""


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    return Nvrtc()


def test_the_measured_shapes_launch_every_kernel() -> None:
    launched = {kernel.partition("<")[0] for kernel in cubins.used()}
    assert launched == cuda_sources.kernel_names()
    assert {cuda_sources.file_of(kernel) for kernel in launched} == set(cuda_sources.files())


@pytest.mark.slow
def test_every_file_compiles_without_a_warning_or_a_spill(nvrtc: Nvrtc) -> None:
    compiled = compile_all(nvrtc, cubins.used(), ARCHITECTURES)
    assert {(c.file, c.architecture) for c in compiled} == {(f, a) for f in cuda_sources.files() for a in ARCHITECTURES}
    for cubin in compiled:
        assert cubin.warnings == "", cubin.file
        assert cubin.code.startswith(b"\x7fELF"), cubin.file
        for kernel in cubin.kernels:
            assert 0 < kernel.registers <= 255, kernel
            assert kernel.shared <= 48 << 10, kernel
            assert kernel.spilled == 0, kernel


@pytest.mark.slow
def test_the_kernels_of_float32_compile_for_older_chips(nvrtc: Nvrtc) -> None:
    names = [name for name in cubins.used() if "bf16" not in name and "tensor" not in name]
    assert "adamw" in names
    for cubin in compile_all(nvrtc, names, [OLD]):
        assert cubin.warnings == ""
        assert [kernel.kernel for kernel in cubin.kernels if kernel.spilled] == []


@pytest.mark.slow
def test_own_shared_memory_is_what_the_rest_believes(nvrtc: Nvrtc) -> None:
    assert OWN_SHARED["augment"] == TABLE_BYTES
    none = [f"attention_tensor<{width}, {biased}>" for width in (16, 32, 48, 64) for biased in ("false", "true")]
    none += [f"attention_float<{chunks}, {biased}>" for chunks in (1, 2, 3, 4) for biased in ("false", "true")]
    none += [f"score_bias_gradient_tensor<{width}>" for width in (16, 32, 48, 64)]
    none += [f"score_bias_gradient_float<{chunks}>" for chunks in (1, 2, 3, 4)]
    wanted = OWN_SHARED | dict.fromkeys(none, 0)
    cubins_made = compile_all(nvrtc, wanted, ["sm_90"])
    assert {kernel.kernel: kernel.shared for cubin in cubins_made for kernel in cubin.kernels} == wanted


def test_warnings_and_errors_are_seen(nvrtc: Nvrtc, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "__global__ void one(float* x) { float unused; x[0] = 1; }"
    monkeypatch.setattr(cuda_sources, "text", lambda file: text)
    assert 'variable "unused" was declared but never referenced' in nvrtc.compile("one.cu", ["one"], "sm_80").warnings
    text = "__global__ void one(float* x) { y[0] = 1; }"
    with pytest.raises(RuntimeError, match=r'(?s)one.cu does not compile for sm_80:.*"y" is undefined'):
        nvrtc.compile("one.cu", ["one"], "sm_80")


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cubins.main(["--architectures", "sm_1"]) == 2
    assert "--architectures must be sm_" in capsys.readouterr().err
    monkeypatch.setattr(cubins, "kernel_names", set)
    monkeypatch.setattr(cubins, "used", lambda: {"attention_tensor<16, false>", "fill<bf16, 8>"})
    assert cubins.main(["--architectures", "sm_90"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\| attention_tensor.cu \| `attention_tensor<16, false>` \| \d+ \| 0 \| 0 \|", lines[-2])
    assert lines[-1].startswith("| elementwise.cu | `fill<bf16, 8>` |")

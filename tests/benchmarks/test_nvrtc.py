"""NVRTC is found and loaded in every layout of NVIDIA's wheels; the compiling itself is in test_cuda_compile.py."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import nvrtc
from benchmarks.gpu.signatures import Declarations

LAYOUTS = {"nvidia-cuda-nvrtc 13": "cu13/lib", "nvidia-cuda-nvrtc-cu12": "cuda_nvrtc/lib"}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_builtins_are_loaded_first_by_path(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVRTC opens them by name, which fails unless they are loaded or its wheel has a search path."""
    folder = tmp_path / layout
    folder.mkdir(parents=True)
    for name in ("libnvrtc.so.13", "libnvrtc.alt.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"):
        (folder / name).touch()
    loaded: list[tuple[str, int]] = []

    def load(path: str, mode: int = ctypes.DEFAULT_MODE) -> Declarations:
        loaded.append((path, mode))
        return Declarations()

    monkeypatch.setattr(ctypes, "CDLL", load)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: spec)
    nvrtc.Nvrtc()
    assert loaded == [
        (str(folder / "libnvrtc-builtins.so.13.0"), ctypes.RTLD_GLOBAL),
        (str(folder / "libnvrtc.so.13"), ctypes.DEFAULT_MODE),
    ]

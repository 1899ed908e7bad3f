"""Writes the signatures of CuPy, and of cuBLAS and NVRTC from their headers, that the product is read against.

In one environment for each version of CUDA, from a folder that holds this repository:
    pip install cupy-cuda13x nvidia-cublas nvidia-cuda-nvrtc
    python -m tests.golden.make_signatures
    pip install 'cupy-cuda12x<14' nvidia-cublas-cu12 nvidia-cuda-nvrtc-cu12
    python -m tests.golden.make_signatures
No GPU and no driver are needed. The entries of other versions of CUDA stay as they are.
"""

import json
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.gpu import signatures

FILE = Path(__file__).with_name("signatures.json")
HEADERS = ("cublas_api.h", "library_types.h", "nvrtc.h")


def main() -> None:
    import cupy

    packages = {d.name: d for d in distributions() if d.name.startswith(("cupy-cuda", "nvidia-"))}
    nvidia = {Path(d.locate_file("nvidia")) for d in packages.values()}
    paths = [path for folder in nvidia for name in HEADERS for path in sorted(folder.rglob(name))]
    header = "\n".join(path.read_text() for path in paths)
    look = signatures.of_module(cupy)
    made = {
        "versions": {name: d.version for name, d in sorted(packages.items())},
        "cupy": {use.name: look(use.name) for use in signatures.uses()},
        "functions": {name: signatures.in_header(header, name) for name in signatures.declarations()},
        "constants": {name: signatures.constant_in_header(header, name) for name in signatures.CONSTANTS},
    }
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[f"CUDA {cupy.cuda.runtime.runtimeGetVersion() // 1000}"] = made
    FILE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`CudaOps` passes operations on to kernels that take the same arguments."""

import inspect

import pytest

from vit.backend.cuda.kernels import CudaKernels
from vit.backend.cuda.ops import BY_KERNEL, CudaOps
from vit.backend.ops import Ops

EXTRA = {"cross_entropy": ["totals"], "residual_layer_norm_backward": ["dbranch"]}
"""Arguments that only kernels have, all of them optional."""


@pytest.mark.parametrize("name", BY_KERNEL)
def test_a_kernel_takes_the_arguments_of_its_operation(name: str) -> None:
    kernel, operation = (
        [(p.name, p.kind) for p in inspect.signature(getattr(kind, name)).parameters.values()]
        for kind in (CudaKernels, Ops)
    )
    assert kernel[: len(operation)] == operation
    assert [argument for argument, _ in kernel[len(operation) :]] == EXTRA.get(name, [])
    assert vars(CudaOps)[name] is not vars(Ops)[name]

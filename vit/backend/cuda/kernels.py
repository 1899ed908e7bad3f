"""The CUDA kernels as methods: grids, strides and checks, for any device that can `launch`."""

from vit.backend.cuda.attention import AttentionKernels
from vit.backend.cuda.tokens import TokenKernels
from vit.backend.cuda.training import TrainingKernels


class CudaKernels(TokenKernels, AttentionKernels, TrainingKernels):
    """Every kernel. See `cuda_launch.Launcher` for what it is made from."""

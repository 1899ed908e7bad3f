"""CUDA kernels as methods that check arguments and compute grids and strides."""

from vit.backend.cuda.encodings import EncodingKernels
from vit.backend.cuda.tokens import TokenKernels
from vit.backend.cuda.training import TrainingKernels


class CudaKernels(TokenKernels, EncodingKernels, TrainingKernels):
    """All kernels. See `vit.backend.cuda.launch.Launcher` for the constructor."""

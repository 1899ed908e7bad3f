"""CUDA backend: sources (src/), methods that launch the kernels, and `CudaOps`."""

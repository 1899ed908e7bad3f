"""The GPU side: CUDA sources (src/), their launchers, and `CudaOps`, the operations built from them."""

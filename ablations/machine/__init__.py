"""What this machine has: processor, memory, GPUs, packages; diagnosis and benchmark. Imports no other room."""

from ablations.machine.cpu import available_cores, blas, cpu_model
from ablations.machine.gpus import Device, describe_gpus, devices, gpu_problem, least_used_gpu, unused_gpu
from ablations.machine.memory import available_memory, format_bytes
from ablations.machine.packages import CUDA_PACKAGES, PACKAGES, ROOT, git_state, has_cupy, versions
from ablations.machine.processes import exists, output

__all__ = [
    "CUDA_PACKAGES",
    "PACKAGES",
    "ROOT",
    "Device",
    "available_cores",
    "available_memory",
    "blas",
    "cpu_model",
    "describe_gpus",
    "devices",
    "exists",
    "format_bytes",
    "git_state",
    "gpu_problem",
    "has_cupy",
    "least_used_gpu",
    "output",
    "unused_gpu",
    "versions",
]

"""Benchmarks of speed, memory and statistics. Only comparisons with PyTorch require PyTorch."""

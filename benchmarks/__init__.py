"""Benchmarks of speed, memory and statistics. Only the comparisons with PyTorch require PyTorch."""

"""What is to be run on a GPU, in stages that each end by themselves: `python -m benchmarks.gpu --stage smoke`."""

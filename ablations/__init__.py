"""The harness: trains grids of Vision Transformers, stores the runs, analyses them and writes reports."""

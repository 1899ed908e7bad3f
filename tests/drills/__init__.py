"""Real grids disturbed in every way, then finished and compared with undisturbed ones: ``python -m tests.drills``."""

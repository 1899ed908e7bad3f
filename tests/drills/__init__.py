"""Fault drills: disturb real grids, finish them and compare them with undisturbed ones. ``python -m tests.drills``."""

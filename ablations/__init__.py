"""The harness: grids of runs, their store, their statistics and their reports."""

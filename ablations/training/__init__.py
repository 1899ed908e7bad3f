"""Train one run, or a stack of runs as one model, from a RunConfig to a RunRecord. Writes only checkpoints."""

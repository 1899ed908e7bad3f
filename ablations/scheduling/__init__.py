"""Which process trains which run, when: claims, workers in child processes, stacks."""

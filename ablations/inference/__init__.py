"""What `ablations.stats` is made of: pairs, tests, intervals, power, ranks, and looks at studies that grow."""

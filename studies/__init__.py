"""Studies: one file a figure of a paper, each with a small setting for two cores and the full one of the paper."""

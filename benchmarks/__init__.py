"""Speed against the naive loop, both sides measured in turn in one run; ``python -m benchmarks`` lists what there is."""

"""Speed, measured beside the limit of the machine in the same run. `make bench` runs `python -m benchmarks`."""

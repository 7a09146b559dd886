"""What reverie's own calls cost: one function for each table that `python -m benchmarks` prints."""

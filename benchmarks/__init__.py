"""Speed, measured beside the limit of the machine in the same run.

`harness` times calls in turn and prints tables. `own` measures reverie: `make bench` runs `python -m benchmarks`.
`peers` measures other libraries beside it: `make bench-peers`. `house` measures the code itself: `make house`.
"""

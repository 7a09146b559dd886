"""The figures of the house: how large its parts are, and through how many of them a call runs.

`make house` runs `python -m benchmarks.house`. It measures the reverie that Python imports: `PYTHONPATH` chooses the
tree. A room is the first name below `reverie`: the package `reverie.index`, or the module `reverie.buffer`.
"""

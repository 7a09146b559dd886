"""Settings for every test."""

import os

# Two test processes share two cores; a maths library that takes both for itself makes them wait in turn.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

"""Settings for every test."""

import os
from itertools import count
from zlib import crc32

import numpy as np
import pytest

# Two test processes share two cores; a maths library that takes both for itself makes them wait in turn.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def _no_test_is_left_to_chance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed what a test did not seed from the test's name, so that a test passes always or never."""
    make, numbers = np.random.SeedSequence, count(crc32(request.node.nodeid.encode()))

    def seeded(entropy: object = None, **settings: object) -> np.random.SeedSequence:
        return make(next(numbers) if entropy is None else entropy, **settings)

    monkeypatch.setattr(np.random, "SeedSequence", seeded)

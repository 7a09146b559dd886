"""The naive twin, and the suite that a sampler of your own passes."""

from reverie.testing.suites import (
    LEAST_P,
    Pair,
    SamplerSuite,
    addresses,
    assert_plain,
    assert_shows,
    chi_square_p,
)
from reverie.testing.twin import (
    Address,
    Distribution,
    NaiveBuffer,
    NaiveEpisode,
    NaiveRows,
    NaiveStep,
    NaiveStream,
    NaiveWindow,
    mixture,
    normalised,
)

__all__ = [
    "LEAST_P",
    "Address",
    "Distribution",
    "NaiveBuffer",
    "NaiveEpisode",
    "NaiveRows",
    "NaiveStep",
    "NaiveStream",
    "NaiveWindow",
    "Pair",
    "SamplerSuite",
    "addresses",
    "assert_plain",
    "assert_shows",
    "chi_square_p",
    "mixture",
    "normalised",
]

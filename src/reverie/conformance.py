"""The suite that samplers pass. This page lists the public names; `reverie.testing` is their room."""

from reverie.testing import (
    LEAST_P,
    Pair,
    SamplerSuite,
    addresses,
    assert_plain,
    assert_shows,
    chi_square_p,
)

__all__ = [
    "LEAST_P",
    "Pair",
    "SamplerSuite",
    "addresses",
    "assert_plain",
    "assert_shows",
    "chi_square_p",
]

"""How often steps may be drawn for each that is added: a setting, and the sums. Who waits is in `gate.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Self

from reverie.checks import number, positive
from reverie.errors import BadSetting, counted
from reverie.values import MOST, MOST_ID, integer

LEAST_RATIO, MOST_RATIO = 1e-9, 1e9
MOST_WAIT_S = 1e7  # four months


@dataclass(frozen=True)
class RateLimit:
    """How many steps are drawn for each that is added: draws wait for steps, and steps for draws.

    The meaning is that of Reverb's `SampleToInsertRatio` (Cassirer et al., 2021), counted in steps. With
    `error = (inserts - min_size) * samples_per_insert - samples`, an add or a draw waits while it would take the error
    out of `-tolerance..tolerance`. Here `inserts` are the steps that were added, and `samples` those that were drawn:
    a batch counts `batch_size * length`, masked steps too and `burn_in` not, one of `sample_steps` counts `batch_size`.

    So `samples_per_insert` is Dreamer's train ratio: with batches of 16 windows of 64 steps,
    `RateLimit(512, 16 * 64, 1_024)` is `train_ratio: 512`, one batch for every two steps of the environment. Reverb
    counts windows: multiply its ratio and its error by their length.

    Args:
        samples_per_insert: steps drawn for each step added, 1e-9..1e9.
        tolerance: drawn steps by which the two may differ, either way. At least those of a batch, and at least
            `samples_per_insert` for each step that is added in one call: then one of both sides can always go on.
        min_size: steps that are added before anything is drawn. Until they are there adding waits for nobody.
        wait_s: seconds after which a wait becomes an error.

    Raises:
        BadSetting: an argument of the wrong kind or range.
    """

    samples_per_insert: float
    tolerance: float
    min_size: int = 1
    wait_s: float = 300.0

    def __post_init__(self) -> None:
        ratio = number("samples_per_insert", self.samples_per_insert, LEAST_RATIO, MOST_RATIO)
        tolerance = number("tolerance", self.tolerance, 0, MOST)
        if tolerance < max(1.0, ratio):
            raise BadSetting(
                f"tolerance: wanted at least {max(1.0, ratio):g} drawn steps, what one step added or drawn counts, "
                f"got {tolerance:g}; pass batch_size * length, or more"
            )
        object.__setattr__(self, "samples_per_insert", ratio)
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "min_size", positive("min_size", self.min_size))
        object.__setattr__(self, "wait_s", number("wait_s", self.wait_s, 0, MOST_WAIT_S))


class RateCount:
    """What was added and drawn under a limit, and what may follow. It waits for nothing, and knows no threads.

    Args:
        limit: the setting.
        inserts, samples: steps that were added and drawn so far.
    """

    def __init__(self, limit: RateLimit, inserts: int = 0, samples: int = 0) -> None:
        self.limit, self.inserts, self.samples = limit, inserts, samples
        # Exact: a sum that is off by a rounding could hold up both sides at once.
        self._ratio, self._tolerance = Fraction(limit.samples_per_insert), Fraction(limit.tolerance)

    @property
    def error(self) -> float:
        """Drawn steps that are owed; below 0 more were drawn than the ratio asks for."""
        return float(self._error())

    def _error(self) -> Fraction:
        return (self.inserts - self.limit.min_size) * self._ratio - self.samples

    # --- what may follow -------------------------------------------------------------------------------

    def missing_samples(self, steps: int) -> int:
        """Return how many steps have to be drawn before so many may be added at once.

        Raises:
            BadSetting: they would never be let through.
        """
        over = self.inserts + steps - self.limit.min_size  # steps that are no prefilling
        if over <= 0 or not steps:
            return 0
        if min(over, steps) * self._ratio > self._tolerance:
            most = math.floor(self._tolerance / self._ratio)
            raise BadSetting(
                f"add: wanted at most {counted(most, 'step')} at once after the first {self.limit.min_size:,}, got "
                f"{steps:,}; the rate limit has a tolerance of {self.limit.tolerance:,g} and asks for "
                f"{self.limit.samples_per_insert:,g} drawn steps for each: add fewer, or pass a larger tolerance or "
                f"min_size"
            )
        return max(0, math.ceil(over * self._ratio - self.samples - self._tolerance))

    def missing_inserts(self, steps: int) -> int:
        """Return how many steps have to be added before so many may be drawn at once.

        Raises:
            BadSetting: they would never be let through.
        """
        if steps > self._tolerance:
            raise BadSetting(
                f"sample: wanted a batch of at most {self.limit.tolerance:,g} steps, the tolerance of the rate limit, "
                f"got {steps:,}; draw fewer windows at once, or pass a tolerance of at least {steps:,}"
            )
        missing = math.ceil((steps - self._tolerance - self._error()) / self._ratio)
        return max(0, missing, self.limit.min_size - self.inserts)

    def may_insert(self, steps: int) -> bool:
        """Whether so many steps may be added at once, now."""
        return not self.missing_samples(steps)

    def may_sample(self, steps: int) -> bool:
        """Whether so many steps may be drawn at once, now."""
        return not self.missing_inserts(steps)

    def inserted(self, steps: int) -> None:
        """Count steps that were added."""
        self.inserts += steps

    def sampled(self, steps: int) -> None:
        """Count steps that were drawn."""
        self.samples += steps

    # --- what it says ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything as named JSON values, which `from_state` takes."""
        return {**vars(self.limit), "inserts": self.inserts, "samples": self.samples}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what had this state.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        limit = RateLimit(*(state[field.name] for field in fields(RateLimit)))
        # A lost process may have taken steps with it that were there when the limit began.
        return cls(limit, integer(state["inserts"], MOST_ID, -MOST_ID), integer(state["samples"], MOST_ID))

    def __str__(self) -> str:
        """Return the limit, and what it waits for."""
        limit = self.limit
        told = f"{limit.samples_per_insert:,g} samples per insert ± {limit.tolerance:,g}"
        missing, owed = self.missing_inserts(1), self.missing_samples(1)
        if missing:
            return f"{told}, samples may go on after {counted(missing, 'more step')}"
        if owed:
            return f"{told}, adding may go on after {counted(owed, 'more sample')}"
        drawn = math.floor(self._tolerance + self._error())
        added = math.floor((self._tolerance - self._error()) / self._ratio)
        return f"{told}, room for {counted(drawn, 'sample')} and {counted(added, 'step')}"

    def __repr__(self) -> str:
        return f"RateCount({self.inserts:,} inserts, {self.samples:,} samples: {self})"

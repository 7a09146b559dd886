"""How the batches of each training are drawn, by the settings; what a way of drawing remembers is kept for a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reverie import (
    EpisodeUniform,
    Mixture,
    Prioritized,
    Recent,
    Sampler,
    Uniform,
    VisitBalanced,
)
from reverie.iris.config import Sampling
from reverie.iris.learning.tokens import Replay

BEST = 0.75  # the quantile of returns from which an episode is one of the best


def best_quarter(episodes: Any) -> npt.NDArray[np.bool_]:
    """Return which episodes have a return no smaller than the upper quartile of all, the running ones included.

    Args:
        episodes: the table of episodes that `where=` hands over.
    """
    returns = episodes["return"]
    best: npt.NDArray[np.bool_] = returns >= np.quantile(returns, BEST)
    return best


class Drawing:
    """Makes the samplers of a run's trainings.

    Ways that remember something have one sampler for the whole run. The replay keeps what it remembers, and gives it
    back after a resume.

    Args:
        sampling: the settings.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._kept: dict[str, tuple[Sampler, Recent]] = {}  # phase -> what remembers, and its newest quarter

    def sampler(self, buffer: Replay, phase: str) -> Sampler:
        """Return what draws the batches of a training from a buffer as full as it is now.

        Args:
            buffer: the same in every call. phase: tokenizer, world_model or actor_critic.
        """
        newest = max(1, len(buffer) // 4)
        if phase not in self._kept:
            recent = Recent(newest=newest)
            sampler = self._new(phase, recent)
            if self._sampling.way_in(phase) not in ("priority", "visits"):
                return sampler
            self._kept[phase] = sampler, recent
        sampler, recent = self._kept[phase]
        recent.newest = newest
        return sampler

    def _new(self, phase: str, recent: Recent) -> Sampler:
        share = self._sampling.recent_in(phase)
        rest = self._rest(phase)
        return Mixture([(rest, 1 - share), (recent, share)]) if share else rest

    def _rest(self, phase: str) -> Sampler:
        """Return what draws all but the share of the newest quarter."""
        way = self._sampling.way_in(phase)
        if way == "priority":
            # Nothing weighs these losses, so no importance weights are made.
            return Prioritized(beta=0.0)
        if way == "visits":
            return VisitBalanced(by="step")
        where = best_quarter if way == "best" else None
        if way == "best" or self._sampling.over == "steps":
            return Uniform(where=where)
        return EpisodeUniform()

"""Which windows are drawn: every sampler, and what one of your own needs."""

from reverie.index import Anchors, Drawn
from reverie.samplers.base import Sampler, Uniform, check_sampler, uniform_steps
from reverie.samplers.mixture import (
    EpisodeUniform,
    Fresh,
    Mixture,
    Prioritized,
    Recent,
    Shuffled,
    VisitBalanced,
)
from reverie.samplers.weights import checked_episode_weights, checked_step_weights

__all__ = [
    "Anchors",
    "Drawn",
    "EpisodeUniform",
    "Fresh",
    "Mixture",
    "Prioritized",
    "Recent",
    "Sampler",
    "Shuffled",
    "Uniform",
    "VisitBalanced",
    "check_sampler",
    "checked_episode_weights",
    "checked_step_weights",
    "uniform_steps",
]

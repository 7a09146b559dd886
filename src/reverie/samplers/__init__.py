"""Which windows are drawn: every sampler, and what a sampler of your own needs.

A sampler knows ids, episodes and weights; it never sees a value of a step. It promises:

- The anchors that it draws have exactly the distribution that it documents, whatever was added or evicted.
- Given the same generator and the same memory, it draws the same anchors.
- What it remembers goes with its buffer: through a file, and back when a draw is interrupted.

A sampler of your own derives from `Sampler`. Its `draw` gets `Anchors`, the steps that can be drawn now, and
returns `Drawn`.
"""

from reverie.index import Anchors, Drawn
from reverie.samplers.base import LEAST_ACCEPTED, Sampler, Scale, check_sampler
from reverie.samplers.episode_weights import checked_episode_weights
from reverie.samplers.fresh import Fresh
from reverie.samplers.mixture import Mixture
from reverie.samplers.moves import EPISODE_WEIGHTS, STEP_WEIGHTS, Move, moved
from reverie.samplers.prioritized import Prioritized
from reverie.samplers.recent import Recent
from reverie.samplers.shuffled import Shuffled
from reverie.samplers.uniform import EpisodeUniform, Uniform, uniform_steps
from reverie.samplers.visits import VisitBalanced
from reverie.samplers.weights import checked_step_weights

__all__ = [
    "EPISODE_WEIGHTS",
    "LEAST_ACCEPTED",
    "STEP_WEIGHTS",
    "Anchors",
    "Drawn",
    "EpisodeUniform",
    "Fresh",
    "Mixture",
    "Move",
    "Prioritized",
    "Recent",
    "Sampler",
    "Scale",
    "Shuffled",
    "Uniform",
    "VisitBalanced",
    "check_sampler",
    "checked_episode_weights",
    "checked_step_weights",
    "moved",
    "uniform_steps",
]

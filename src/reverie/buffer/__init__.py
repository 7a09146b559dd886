"""The replay buffer and `reverie.open`: what users call.

A `ReplayBuffer` checks, documents, and has its engine do it. It promises that a call that
is refused has changed nothing, and that a refusal says what was wanted, what came, and the remedy.
"""

from reverie.buffer.buffer import ReplayBuffer
from reverie.buffer.opening import compact, open

__all__ = ["ReplayBuffer", "compact", "open"]

"""Games, and recording them."""

from reverie.envs.atari import atari
from reverie.envs.minatar import minatar
from reverie.envs.record import Recording, record

__all__ = ["Recording", "atari", "minatar", "record"]

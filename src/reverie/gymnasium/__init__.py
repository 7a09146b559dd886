"""Games, and recording them."""

from reverie.gymnasium.atari_games import atari
from reverie.gymnasium.minatar_games import minatar
from reverie.gymnasium.recording import Recording, record

__all__ = ["Recording", "atari", "minatar", "record"]

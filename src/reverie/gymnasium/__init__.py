"""Games: Atari as IRIS plays it, MinAtar, and `record`, which plays an environment into a buffer.

`record` adds true transitions only, whatever the environment does at an end.
"""

# ruff: noqa: E402
from reverie.errors import need

need("gymnasium")  # says how to install it

from reverie.gymnasium.atari_games import atari
from reverie.gymnasium.catalogue import make_named
from reverie.gymnasium.minatar_games import minatar
from reverie.gymnasium.recording import Recorder, Recording, record

__all__ = ["Recorder", "Recording", "atari", "make_named", "minatar", "record"]

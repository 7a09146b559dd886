"""Games: Atari as IRIS plays it, MinAtar, and `record`, which plays an environment into a buffer.

`record` adds true transitions only, whatever the environment does at an end. `reverie.gymnasium` is the public door.
"""

from reverie.envs.atari import atari
from reverie.envs.minatar import minatar
from reverie.envs.record import Recording, record

__all__ = ["Recording", "atari", "minatar", "record"]

"""Games and recording, for Gymnasium's environments. This page lists the public names."""

from reverie.envs import Recording, atari, minatar, record

__all__ = ["Recording", "atari", "minatar", "record"]

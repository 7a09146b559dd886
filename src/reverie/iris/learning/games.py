"""Games by name: Atari as IRIS plays it, and MinAtar."""

from __future__ import annotations

from reverie.iris.learning.lane import Game
from reverie.iris.learning.run import Games

MINATAR = "minatar:"


def games(name: str) -> Games:
    """Return what makes a game, for training or for testing.

    Args:
        name: an Atari game such as Breakout, or one of MinAtar's such as minatar:breakout.

    Raises:
        BadSetting: there is no such game.
    """

    def make(training: bool) -> Game:
        if name.lower().startswith(MINATAR):
            from reverie.gymnasium import minatar

            return minatar(name[len(MINATAR) :])
        from reverie.gymnasium import atari

        return atari(name, train=training)

    make(False).close()  # an unknown name is refused here and not in the middle of things
    return make

"""Catalogue: environments by name, whichever package they come from."""

from __future__ import annotations

import re
from typing import Any

import gymnasium

from reverie.errors import BadSetting
from reverie.gymnasium.atari_games import atari
from reverie.gymnasium.minatar_games import minatar

MINATAR = "minatar:"  # begins the names of MinAtar's games


def make_named(name: str, *, full_games: bool = False) -> gymnasium.Env[Any, Any]:
    """Return the environment of that name.

    Args:
        name: `minatar:` and one of MinAtar's games; an id that Gymnasium has registered, which has a version or a
            namespace, such as CartPole-v1 or ALE/Pong-v5; or an Atari game in any spelling, as IRIS plays it.
        full_games: of an Atari game as IRIS plays it: an episode ends with the game, not with each life.

    Raises:
        BadSetting: there is no such environment, it cannot be built, or `full_games` with another one.
        ModuleNotFoundError: the package of an Atari game or of MinAtar is not installed.
    """
    is_minatar = name.lower().startswith(MINATAR)
    if not is_minatar and not _is_id(name):
        return _atari(name, full_games)
    if full_games:
        raise BadSetting(f"full_games: wanted it with an Atari game's name only, got {name!r}; leave it out")
    return minatar(name[len(MINATAR) :]) if is_minatar else _registered(name)


def _atari(name: str, full_games: bool) -> gymnasium.Env[Any, Any]:
    try:
        return atari(name, train=not full_games)
    except BadSetting as error:
        latest = _latest(name)
        if latest is None:
            raise
        raise BadSetting(
            f"game: wanted an Atari game, or an id with its version, got {name!r}; did you mean {latest}?"
        ) from error


def _latest(name: str) -> str | None:
    """Return the newest registered id that is a name and a version, whatever the case of its letters."""
    found = {
        spec.version or 0: spec.id
        for spec in gymnasium.registry.values()
        if spec.name.lower() == name.lower() and spec.namespace is None
    }
    return found[max(found)] if found else None


def _is_id(name: str) -> bool:
    return "/" in name or ":" in name or re.search(r"-v\d+$", name) is not None or name in gymnasium.registry


def _registered(name: str) -> gymnasium.Env[Any, Any]:
    if name.startswith("ALE/"):
        import ale_py

        # Otherwise the emulator writes a banner to stderr.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        gymnasium.register_envs(ale_py)
    try:
        return gymnasium.make(name)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise BadSetting(
            f"game: wanted an environment that Gymnasium can make, got {name!r} ({reason}); "
            f"check its id, and install the package that registers it"
        ) from error

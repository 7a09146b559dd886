"""`reverie record` plays any environment by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

import reverie as rv
from reverie.cli.main import main
from reverie.gymnasium import make_named


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-v1", "Blackjack-v1", "Breakout", "ALE/Pong-v5"])
def test_the_command_records_an_environment_by_name(name: str, tmp_path: Path) -> None:
    """Classic control, tables, tuples, Atari as IRIS plays it and Atari by id all end in a replay file."""
    out = tmp_path / "steps.replay"
    assert main(["record", name, "--steps", "30", "--seed", "1", "--out", str(out)]) == 0
    with rv.open(out) as buffer:
        assert len(buffer) == 30
        assert "running" not in buffer.episodes["ended"]


@pytest.mark.parametrize("name", ["CartPoel-v1", "no_such_module:Thing-v0", "Nowhere/Thing-v0"])
def test_an_unknown_id_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An id that Gymnasium cannot make is told with Gymnasium's reason, and no file is made."""
    out = tmp_path / "steps.replay"
    assert main(["record", name, "--out", str(out)]) == 2
    assert f"wanted an environment that Gymnasium can make, got '{name}' (" in capsys.readouterr().err
    assert not out.exists()


def test_only_an_atari_game_has_full_games() -> None:
    """The option that only Atari games have is refused elsewhere."""
    with pytest.raises(rv.BadSetting, match="full_games: wanted it with an Atari game's name only"):
        make_named("CartPole-v1", full_games=True)


def test_minatar_games_go_by_their_prefix() -> None:
    """A game after `minatar:` is looked up among MinAtar's."""
    with pytest.raises(rv.BadSetting, match="wanted one of asterix"):
        make_named("minatar:pong")


@pytest.mark.parametrize(("name", "meant"), [("CartPole", "CartPole-v1"), ("pendulum", "Pendulum-v1")])
def test_an_id_without_its_version_gets_a_hint(name: str, meant: str) -> None:
    """Whoever leaves the version out is told the newest, and not all Atari games."""
    with pytest.raises(rv.BadSetting, match=f"got '{name}'; did you mean {meant}?"):
        make_named(name)

"""`inspect --json`, `inspect --watch`, `verify --json` and `--quiet`: what programs read, and when they end."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reverie as rv
from reverie.cli.contents import _averages, _samplers, contents
from reverie.cli.main import main
from reverie.cli.report import lines_of


def add(buffer: rv.ReplayBuffer, step: int, reward: float = 1.0) -> None:
    buffer.add(obs=np.full(2, step, np.float32), action=0, reward=reward, terminated=step % 10 == 9,
               truncated=step % 20 == 14)  # fmt: skip


def fill(path: Path, steps: int = 33, **settings: Any) -> Path:
    """Episodes of 10, 5, 5, 10 steps and one that runs."""
    spec = rv.StepSpec(rv.Field((2,), "float32"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 64, seed=0, path=path, **settings) as buffer:
        for step in range(steps):
            add(buffer, step)
        if steps:
            buffer.annotate(env="Line-v0")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fill(tmp_path / "line.replay")


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """What was printed, which is JSON and nothing else."""
    return json.loads(capsys.readouterr().out)


def test_inspect_in_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every number that the text shows is there, as a number."""
    assert main(["inspect", str(path), "--json", "--episodes", "2"]) == 0
    found = told(capsys)
    assert (found["file"], found["state"]) == (str(path), "closed")
    assert found["steps"] == {"live": 33, "capacity": 64, "added": 33}
    assert found["episodes"] == {"live": 5, "ended": 4, "terminated": 3, "truncated": 1, "cut": 0,
                                 "running": 1, "discarded": 0}  # fmt: skip
    assert found["ended"]["return"] == {"mean": 7.5, "least": 5, "most": 10}
    assert found["columns"][0] == {"column": "obs", "shape": [2], "dtype": "float32", "step_bytes": 8,
                                   "sealed_bytes": 256, "packed_bytes": found["columns"][0]["packed_bytes"]}  # fmt: skip
    assert found["streams"] == [
        {"stream": 0, "oldest": 0, "newest": 32, "steps": 33, "episodes": 5, "begun": 5}
    ]
    assert [episode["episode"] for episode in found["newest_episodes"]] == [3, 4]
    assert found["newest_episodes"][1] == {
        "episode": 4, "stream": 0, "first": 30, "last": 32, "steps": 3, "live": 3, "return": 3,
        "ended": "running", "final_obs": False, "metadata": {"env": "Line-v0"},
    }  # fmt: skip


def test_numbers_that_json_has_not_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file has no averages; nothing is printed that a strict reader of JSON refuses."""
    assert main(["inspect", str(fill(tmp_path / "none.replay", 0)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["ended"] == {"return": None, "length": None}
    assert found["streams"][0]["oldest"] is None
    assert found["newest_episodes"] == []


def test_what_is_not_finite_is_null(path: Path) -> None:
    """A file from elsewhere may say that a sampler remembers infinity, or a return has none: JSON has no such number."""
    state = {
        "highest": math.inf,
        "draws": 3,
        "on": True,
        "weights": {"array": 1},
        "inner": {"low": -math.inf},
    }
    found = contents(path) | _samplers([("Mine()", state)])
    assert found["samplers"] == [
        {"sampler": "Mine()", "state": {"highest": None, "draws": 3, "inner.low": None}}
    ]
    ended = np.array([(math.inf, 3), (1.0, 5)], [("return", np.float64), ("length", np.int64)])
    found["ended"] = _averages(ended)
    json.dumps(found, allow_nan=False)
    lines = list(lines_of(found))
    assert "returns     not finite on average over the 4 that ended, from 1 to not finite" in lines
    assert lines[-1] == "samplers    Mine(): highest not finite, draws 3, inner.low not finite"


def test_discarded_episodes_are_counted_and_not_listed(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that are left keep their numbers, in text and in JSON."""
    with rv.open(path) as buffer:
        buffer.discard(buffer.episodes.ids[[1, 3]])
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 live: 2 ended (terminated), 1 running; 2 discarded" in out
    found = contents(path)
    assert [episode["episode"] for episode in found["newest_episodes"]] == [0, 2, 4]
    assert [episode["steps"] for episode in found["newest_episodes"]] == [10, 5, 3]


def test_a_cut_episode_is_no_ended_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Averages are over those that terminated or were truncated, as in `reverie record`."""
    with rv.open(path) as buffer:
        buffer.cut()
        add(buffer, 40, reward=500)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "episodes    6 live: 4 ended (3 terminated, 1 truncated), 1 cut, 1 running" in out
    assert "returns     7.50 on average over the 4 that ended, from 5 to 10" in out


# --- watch ---------------------------------------------------------------------------------------------------------


def test_watch_shows_what_is_added_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each look is of its own moment; Ctrl-C ends it with 130 and says so."""
    spec = rv.StepSpec(rv.Field((2,), "float32"), rv.Field((), "int64"))
    pauses: list[float] = []
    with rv.ReplayBuffer(spec, 64, seed=0, path=tmp_path / "now.replay") as buffer:

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                raise KeyboardInterrupt
            add(buffer, len(pauses))

        monkeypatch.setattr(time, "sleep", pause)
        command = ["inspect", str(buffer.path), "--watch", "--interval", "0.5", "--json"]
        assert main(command) == 130
        shown = capsys.readouterr()
        assert [json.loads(line)["steps"]["live"] for line in shown.out.splitlines()] == [0, 1, 2]
        assert pauses == [0.5] * 3
        assert shown.err == f"reverie: interrupted; {buffer.path} is watched no more\n"
        pauses[:] = [0, 0]
        assert main([*command[:-1], "--episodes", "0"]) == 130
        shown = capsys.readouterr()
        assert shown.out.startswith("time        ")
        assert "\x1b" not in shown.out, "a pipe is not cleared"
        assert "2 live of 64" in shown.out


@pytest.mark.parametrize("interval", ["0", "nan", "-1", "1e9"])
def test_watch_wants_a_pause(interval: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No pause, or one that never ends, is refused."""
    assert main(["inspect", str(path), "--watch", "--interval", interval]) == 2
    assert capsys.readouterr().err.startswith("reverie: interval: wanted a number in 0.1..86400")


def test_watch_ends_when_the_file_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to look at any more: status 2."""
    monkeypatch.setattr(time, "sleep", lambda seconds: path.unlink())
    assert main(["inspect", str(path), "--watch"]) == 2
    assert "wanted a replay file, got no file" in capsys.readouterr().err


def watching(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "reverie", "inspect", str(path), "--watch", "--json",
               "--interval", "0.1"]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_watch_in_a_pipe_ends_with_ctrl_c_or_with_its_reader(path: Path) -> None:
    """Two looks come through a pipe. SIGINT ends it with 130; a reader that has seen enough, with 0."""
    with watching(path) as stopped, watching(path) as left:
        for process in (stopped, left):
            assert process.stdout is not None
            assert [json.loads(process.stdout.readline())["steps"]["live"] for _ in range(2)] == [33, 33]
        os.kill(stopped.pid, signal.SIGINT)
        assert stopped.wait(30) == 130
        left.stdout.close()  # type: ignore[union-attr]
        assert left.wait(30) == 0
        assert stopped.stderr.read().count("\n") == 1  # type: ignore[union-attr]
        assert left.stderr.read() == ""  # type: ignore[union-attr]


# --- verify --------------------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET reward = x'00' WHERE number = 0")
    connection.close()


def test_verify_in_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Findings, what was checked, and the verdict; the exit status is the same as without."""
    assert main(["verify", str(path), "--json"]) == 0
    found = told(capsys)
    assert (found["file"], found["whole"], found["findings"], found["lacks_log"]) == (
        str(path),
        True,
        [],
        False,
    )
    assert found["checked"]["live steps"] == 33
    damage(path)
    assert main(["verify", str(path), "--json"]) == 1
    found = told(capsys)
    assert found["whole"] is False
    assert found["findings"][0] == "run 0, column 'reward': its checksum is wrong"


def test_quiet_tells_only_what_is_wrong(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole file: nothing at all. A damaged one: its findings, and status 1."""
    for options in ([], ["--json"]):
        assert main(["verify", str(path), "--quiet", *options]) == 0
        assert capsys.readouterr().out == ""
    damage(path)
    assert main(["verify", str(path), "-q"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "run 0, column 'reward': its checksum is wrong"
    assert main(["verify", str(path), "-q", "--json"]) == 1
    assert told(capsys)["whole"] is False

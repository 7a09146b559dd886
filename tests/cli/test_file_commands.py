"""`reverie inspect`, `verify` and `film`: what they print, draw and refuse, and their exit status."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.cli.main import main
from reverie.cli.pictures import film

RED, BLUE = (255, 0, 0), (0, 0, 255)


def frame(step: int, shape: tuple[int, ...] = (3, 16, 16)) -> np.ndarray:
    """A frame whose first pixel tells the step."""
    value = np.full(shape, step, np.uint8)
    value.reshape(-1)[0] = 255 - step
    return value


def record(path: Path, steps: int = 50, field: Any = None, **settings: Any) -> Path:
    """Episodes of 20 steps: one that terminated and shows what came after, one truncated, one that runs."""
    field = rv.Field((3, 16, 16), "uint8") if field is None else field
    spec = rv.StepSpec(field, rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 64, seed=0, path=path, **settings) as buffer:
        for step in range(steps):
            last = step % 20 == 19
            buffer.add(obs=frame(step, field.shape), action=0, reward=float(step % 20 == 5) - (step % 20 == 7) / 2,
                       terminated=last and step < 20, truncated=last and step > 20,
                       final_obs=frame(200, field.shape) if last and step < 20 else None)  # fmt: skip
        prioritized = rv.Prioritized()
        if steps:
            buffer.sample(2, 1, sampler=prioritized)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record(tmp_path / "pong.replay")


# --- inspect -----------------------------------------------------------------------------------------------


def test_inspect_tells_what_a_file_holds(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps, episodes, returns, sizes by column, streams, the newest episodes and the samplers are there."""
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == f"file        {path}, a replay file of format version 1"
    assert lines[1] == "state       closed; an episode that runs ends when the next step is added"
    assert lines[2] == "steps       50 live of 64, in 1 stream; 50 were added in all"
    assert lines[3] == "episodes    3 live: 2 ended (1 terminated, 1 truncated), 1 running"
    assert lines[4] == "returns     0.50 on average over the 2 that ended, from 0.5 to 0.5"
    assert lines[5] == "lengths     20.00 on average over the 2 that ended, from 20 to 20"
    assert lines[6] == "kept        residency ram, durability step, no limit of bytes"
    assert re.search(r"^obs +\(3, 16, 16\) uint8 +768 B +24\.58 kB +\S+ k?B +[\d.]+x$", out, re.MULTILINE)
    assert re.search(
        r"^beside them 32 rows of newest steps \(.*\), 1 final observation \(.*\), ", out, re.MULTILINE
    )
    assert re.search(r"^ +0 +0 +49 +50 +3 +3$", out, re.MULTILINE)
    assert re.search(r"^ +1 +0 +20 +39 +20 +20 +0\.50  truncated   no$", out, re.MULTILINE)
    assert lines[-1] == "samplers    Prioritized(): highest 1"
    assert max(map(len, lines[1:])) <= 110
    assert not any(line.endswith(" ") for line in lines)


def test_inspect_lists_as_many_episodes_as_asked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--episodes says how many of the newest."""
    assert main(["inspect", str(path), "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "and 2 older ones; --episodes 3 lists them all" in out
    assert main(["inspect", str(path), "--episodes", "-1"]) == 2


def test_inspect_of_an_empty_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without a step is told as such."""
    assert main(["inspect", str(record(tmp_path / "empty.replay", steps=0))]) == 0
    out = capsys.readouterr().out
    assert "steps       0 live of 64" in out
    assert "no episode to list" in out
    assert "none remembers anything" in out


def test_inspect_while_a_writer_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that this very process writes to is told as it is at the moment, and the writer is named."""
    spec = rv.StepSpec(rv.Field((4,), "float32"), rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 100, seed=0, path=tmp_path / "now.replay") as buffer:
        for step in range(40):
            buffer.add(obs=np.zeros(4, np.float32), action=0, reward=0.0, terminated=False, truncated=False)
            if step == 9:
                assert main(["inspect", str(buffer.path)]) == 0
                out = capsys.readouterr().out
                assert re.search(rf"state       process {os.getpid()} on .* writes to it now", out)
                assert "steps       10 live" in out
                assert main(["verify", str(buffer.path)]) == 0


def test_inspect_tells_of_a_killed_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file whose writer was killed says so, and what opening it will do."""
    code = (
        "import os, signal, sys, numpy as np, reverie as rv\n"
        "b = rv.ReplayBuffer(rv.StepSpec(rv.Field((2,), 'float32'), rv.Field((), 'int64')), 64, path=sys.argv[1])\n"
        "for _ in range(40):\n"
        "    b.add(obs=np.zeros(2, np.float32), action=0, reward=1.0, terminated=False, truncated=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "killed.replay"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert (
        "state       its writer ended without closing it; opening it again cuts the episodes that run" in out
    )
    assert "steps       40 live" in out
    assert "40.00  running" in out
    assert main(["verify", str(path)]) == 0


def test_inspect_is_fast_on_a_large_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It unpacks no sealed run: 100,000 steps of frames take little more than their numbers."""
    spec = rv.StepSpec(rv.Field((3, 16, 16), "uint8"), rv.Field((), "int64"))
    path = tmp_path / "large.replay"
    obs = np.zeros((100, 3, 16, 16), np.uint8)
    zeros, never = np.zeros(100), np.zeros(100, bool)
    with rv.ReplayBuffer(spec, 100_000, streams=100, path=path, durability="chunk", seed=0) as buffer:
        for step in range(1_000):
            buffer.add_batch(obs=obs, action=zeros.astype(np.int64), reward=zeros, truncated=never,
                             terminated=np.full(100, step % 100 == 99))  # fmt: skip
    # A sealed run that nothing reads: were it unpacked, this would be an error.
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET obs = x'0123' WHERE number = 7")
    connection.close()
    began = time.process_time()
    assert main(["inspect", str(path)]) == 0
    assert time.process_time() - began < 5
    assert "steps       100,000 live" in capsys.readouterr().out


# --- verify ------------------------------------------------------------------------------------------------


def test_verify_tells_what_was_checked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole file: what was looked at, and status 0."""
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"checked {path}: SQLite's own structures, 17 named values, 1 sealed runs, 32 steps in them, "
        f"32 rows of newest steps, 3 episodes, 1 final observations, 50 live steps, 7 arrays, 1 samplers",
        "nothing is wrong",
    ]


def test_verify_lists_findings_and_exits_with_1(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file: each finding with its place, what was checked all the same, and status 1."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET reward = x'00' WHERE number = 0")
    connection.close()
    assert main(["verify", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run 0, column 'reward': its checksum is wrong"
    assert lines[-1] == "1 finding"


def test_verify_exits_with_2_on_what_does_not_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file, another kind of file, a newer one: one line on stderr and status 2, never a traceback."""
    other, newer = tmp_path / "other.replay", record(tmp_path / "newer.replay")
    other.write_bytes(b"something else" * 1_000)
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    for path, message in (
        (tmp_path / "none.replay", "wanted a replay file, got no file; check the path"),
        (tmp_path, "wanted a replay file, got a folder or device"),
        (other, "wanted a replay file, got something else or a damaged one"),
        (newer, "wanted format version 1, 2 or 3, got 4; open it with"),
    ):
        for command in ("verify", "inspect"):
            assert main([command, str(path)]) == 2
            captured = capsys.readouterr()
            assert captured.err.startswith(f"reverie: {path}: {message}")
            assert captured.err.count("\n") == 1
            assert captured.out == ""


# --- film --------------------------------------------------------------------------------------------------


def test_film_makes_a_gif_of_every_step(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One frame a step and the final observation last, enlarged, with the reward's colour below."""
    out = path.with_name("film.gif")
    assert main(["film", str(path), "--episode", "0", "-o", str(out)]) == 0
    told = "21 frames of 'obs'; episode 0 of stream 0, steps 0 to 19, return 0.5, terminated"
    assert capsys.readouterr().out == f"wrote {out}: {told}\n"
    with Image.open(out) as image:
        assert image.n_frames == 21
        assert image.size == (192, 232)
        colours = []
        for place in range(21):
            image.seek(place)
            shown = image.convert("RGB")
            grey = 200 if place == 20 else place
            assert max(abs(value - grey) for value in shown.getpixel((100, 100))) <= 4
            colours.append(shown.getpixel((188, 228)))
    plain = [
        place
        for place, (red, green, blue) in enumerate(colours)
        if max(red, green, blue) - min(red, green, blue) < 12
    ]
    assert sorted(set(range(21)) - set(plain)) == [5, 7, 20]
    assert np.argmax(colours[5]) == 1, "green: a reward"
    assert np.argmax(colours[7]) == 0, "red: a penalty"
    assert np.argmax(colours[20]) == 2, "blue: the end"


def test_film_makes_a_sheet(path: Path) -> None:
    """A PNG has all frames side by side; a truncated episode without a final observation repeats its last, darker."""
    out = path.with_name("film.png")
    assert "21 frames" in film(path, 1, out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        tile_width, tile_height, title = 200, 240, 36
        columns = (image.width - 8) // tile_width
        spots = [
            (8 + 100 + place % columns * tile_width, title + 100 + place // columns * tile_height)
            for place in range(21)
        ]
        assert [image.getpixel(spot)[0] for spot in spots] == [*range(20, 40), 39 // 2]


def test_film_of_a_running_episode_has_no_end(path: Path) -> None:
    """What is still to come is not shown."""
    assert film(path, 2, path.with_name("film.png")).endswith("10 frames of 'obs'; episode 2 of stream 0, "
                                                               "steps 40 to 49, return 0.5, running")  # fmt: skip


def test_film_leaves_out_steps_and_no_reward(path: Path) -> None:
    """With --every the rewards of all steps are in the sums: a tile has what it stands for."""
    out = path.with_name("film.gif")
    assert "6 frames of 'obs', one of each 4 steps" in film(path, 0, out, every=4)
    with Image.open(out) as image:
        image.seek(1)  # steps 4 to 7 bring 1 and -0.5
        red, green, blue = image.convert("RGB").getpixel((188, 228))
        assert green > max(red, blue) + 20


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (16, 16, 3), (1, 16, 16), (16, 16, 1), (16, 16), (3, 210, 160), (300, 8, 3)]
)
def test_film_knows_frames_of_any_layout(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Channels first or last, one or three or none, small or large, wide or high."""
    path = record(tmp_path / "shape.replay", 20, rv.Field(shape, "uint8"))
    with Image.open((film(path, 0, tmp_path / "film.gif"), tmp_path / "film.gif")[1]) as image:
        image.seek(20)
        red, green, blue = image.convert("RGB").getpixel((image.width // 2, 100))
        assert max(abs(value - 200) for value in (red, green, blue)) <= 4


def test_film_asks_which_of_several_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two cameras: --column says which; a column that is none, or no picture, is refused."""
    obs = {
        "left": rv.Field((3, 8, 8), "uint8"),
        "right": rv.Field((8, 8, 1), "uint8"),
        "pose": rv.Field((3,), "float32"),
    }
    path = tmp_path / "eyes.replay"
    with rv.ReplayBuffer(rv.StepSpec(obs, rv.Field((), "int64")), 10, path=path) as buffer:
        buffer.add(obs={"left": frame(1, (3, 8, 8)), "right": frame(2, (8, 8, 1)), "pose": np.zeros(3, np.float32)},
                   action=0, reward=0.0, terminated=True, truncated=False)  # fmt: skip
    command = ["film", str(path), "--episode", "0", "--out", str(tmp_path / "film.png")]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "reverie: column: wanted one of ['obs/left', 'obs/right'], got none; choose the frames to show with --column\n"
    )
    assert main([*command, "--column", "obs/pose"]) == 2
    assert "got 'obs/pose'; the file has obs/left (3, 8, 8) uint8" in capsys.readouterr().err
    assert main([*command, "--column", "obs/right"]) == 0


def test_film_refuses_with_a_remedy(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No such episode, one partly evicted, no frames, another kind of picture, no folder, odd numbers."""
    evicted = record(tmp_path / "evicted.replay", 80)
    vectors = record(tmp_path / "vectors.replay", 20, rv.Field((4,), "uint8"))
    out = tmp_path / "film.png"
    for options, message in (
        (
            [path, 9, out],
            "episode: wanted one of the 3 that are live, numbered 0 to 2, got 9; reverie inspect lists them",
        ),
        (
            [evicted, 0, out],
            "episode 0: wanted all of its 20 steps, got the last 4, since the others are evicted; choose",
        ),
        (
            [vectors, 0, out],
            "wanted an observation of frames, uint8 of (1 or 3, height, width) or (height, width, 1 or 3), got obs (4,) uint8",
        ),
        (
            [record(tmp_path / "empty.replay", 0), 0, out],
            "episode: wanted one of a file that holds episodes, got 0",
        ),
        ([path, 0, tmp_path / "film.jpg"], "out: wanted a name that ends in .gif or .png, got 'film.jpg'"),
        ([path, 0, tmp_path / "none" / "film.png"], "out: wanted a folder to put it in, got none at "),
        ([path, 0, out, "--every", "0"], "every: wanted at least 1, got 0"),
        ([path, 0, out, "--fps", "0"], "fps: wanted 0.1 to 50, got 0"),
        ([tmp_path / "no.replay", 0, out], f"{tmp_path / 'no.replay'}: wanted a replay file, got no file"),
    ):
        file, episode, target, *more = map(str, options)
        assert main(["film", file, "--episode", episode, "-o", target, *more]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"reverie: {message}")
        assert captured.err.count("\n") == 1
        assert not out.exists()


def test_film_that_cannot_be_written_says_why(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk's refusal is one line, too."""
    taken = path.with_name("taken.png")
    taken.mkdir()
    assert main(["film", str(path), "--episode", "0", "-o", str(taken)]) == 2
    assert capsys.readouterr().err == (
        f"reverie: {taken}: wanted a path for a file, got a folder; name a file in it\n"
    )


def test_film_without_pillow_gets_a_one_line_remedy(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow is all that is missing then, and not a whole extra."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["film", str(path), "--episode", "0", "-o", str(path.with_suffix(".gif"))]) == 2
    assert capsys.readouterr().err.endswith("pip install Pillow\n")


# --- record --out ------------------------------------------------------------------------------------------


def test_record_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`reverie record --out` leaves a whole file that the other commands and `reverie.open` read."""
    path = tmp_path / "breakout.replay"
    assert main(["record", "breakout", "--steps", "80", "--seed", "3", "--out", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[3].startswith(f"file      {path}, ")
    assert main(["verify", str(path)]) == 0
    with rv.open(path) as buffer:
        assert len(buffer) == 80
    assert main(["film", str(path), "--episode", "0", "-o", str(tmp_path / "film.gif")]) == 0
    capsys.readouterr()
    assert main(["record", "breakout", "--steps", "150", "--out", str(path)]) == 2
    assert "wanted a path that is free, got one that exists" in capsys.readouterr().err
    assert main(["record", "breakout", "--steps", "0", "--out", str(tmp_path / "none.replay")]) == 2
    assert not (tmp_path / "none.replay").exists()


def test_a_reader_that_has_seen_enough_is_no_error(path: Path) -> None:
    """`reverie inspect FILE | head -1` ends without a traceback."""
    command = f"{sys.executable} -W error -m reverie.cli inspect {path} --episodes 3 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.startswith("file  ")

"""A replay file of format version 1, kept for ever: every later reverie opens it and finds what was in it."""

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.file.replay import FORMATS, ReplayFile
from reverie.file.verify import Audit

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import make_format_1 as made  # noqa: E402  # kept beside the file that it made

KEPT = DATA / "format-1.replay"
WANTED = dict(np.load(DATA / "format-1.npz"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy: opening a file for writing changes it."""
    return Path(shutil.copy(KEPT, tmp_path / "format-1.replay"))


def assert_equal(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        assert array.dtype == wanted[name].dtype, name
        if name.endswith("weight"):  # a power, which machines may round differently
            np.testing.assert_allclose(array, wanted[name], rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(array, wanted[name], err_msg=name)


def part(prefix: str) -> dict:
    return {name.removeprefix(prefix): array for name, array in WANTED.items() if name.startswith(prefix)}


@pytest.mark.parametrize("mode", ["r+", "r"])
@pytest.mark.parametrize("residency", [None, "ram", "packed", "disk"])
def test_its_next_batches_and_its_content_are_the_listed_ones(residency, mode, path):
    """With every residency: to a writer the batches that would have come next, and to all every step and episode."""
    with rv.open(path, residency, mode) as buffer:
        assert buffer.residency == (residency or "ram")
        assert (buffer.capacity, buffer.streams, buffer.spec) == (200, 2, made.SPEC)
        if mode == "r+":  # a reader has random numbers of its own
            assert_equal(made.next_batches(buffer, made.samplers()), part("next/"))
        steps_and_episodes = {name: WANTED[name] for name in WANTED if not name.startswith("next/")}
        assert_equal(made.everything(buffer), steps_and_episodes)


@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_it_goes_on(residency, path):
    """Steps can be added to it: the running episode may go on, and what is evicted is the oldest."""
    with rv.open(path, residency, episodes="continue") as buffer:
        assert buffer.episodes[-1].tolist() == (0, 151, 171, 20, 20, 5.0, "running")
        for step in range(171, 200):
            buffer.add(**made.values(0, step), terminated=step == 199, truncated=False)
    with rv.open(path, residency) as buffer:
        assert buffer.episodes[-1].tolist()[:5] == (0, 151, 200, 49, 49)
        content = made.everything(buffer)
    mine = content["step/stream"] == 0
    np.testing.assert_array_equal(
        content["step/clock"][mine, 0], [1_000_000_007 * step for step in range(100, 200)]
    )
    file = ReplayFile.open(path, "r")
    assert list(Audit(file).findings()) == []
    file.close()


def test_the_list_is_what_was_added():
    """The listed steps are those that the script beside the file adds, write-back included."""
    streams, ids = WANTED["step/stream"], WANTED["step/anchor"]
    assert ids.tolist() == [*range(71, 171), *range(50, 150)]
    doubled = 0
    for place, (stream, step) in enumerate(zip(streams.tolist(), ids.tolist(), strict=True)):
        values = made.values(stream, step)
        assert WANTED["step/reward"][place, 0] == values["reward"]
        assert WANTED["step/clock"][place, 0] == values["clock"]
        np.testing.assert_array_equal(WANTED["step/camera"][place, 0], values["obs"]["camera"])
        np.testing.assert_array_equal(WANTED["step/joints"][place, 0], values["obs"]["body"]["joints"])
        ratio = WANTED["step/logits"][place, 0] / values["logits"]
        assert ratio.min() == ratio.max()
        assert ratio[0] in (1, 2, 4)
        doubled += ratio[0] > 1
        kind, shown = made.ENDS[stream].get(step, ("", False))
        assert WANTED["step/terminated"][place, 0] == (kind in ("terminated", "both"))
        assert WANTED["step/obs_mask"][place, 1] == (shown if kind else step != 170)
        if shown:
            final = made.observation(stream, 1_000 + step)["camera"]
            np.testing.assert_array_equal(WANTED["step/camera"][place, 1], final)
    assert doubled > 10


def test_neither_file_was_changed():
    """A change of the two files would make this test worthless: a new version comes beside them, as format-2."""
    digests = [
        hashlib.sha256((DATA / name).read_bytes()).hexdigest() for name in ("format-1.replay", "format-1.npz")
    ]
    assert digests == [
        "325e4ff269a6afa91af7d2f611b066123d22f658a4944347aa40126ae796f4a1",
        "6e20ab21112b105478c8f33215932b308833b7bf857a487c11014c4127f1a0f8",
    ]
    assert [(DATA / f"format-{version}.replay").exists() for version in FORMATS] == [True] * len(FORMATS)

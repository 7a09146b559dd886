"""A replay file of format version 3, kept for ever: every later reverie opens it and finds what was in it."""

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie as rv
from reverie.file import verify_file

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import make_format_3 as made  # noqa: E402  # kept beside the file that it made

KEPT = DATA / "format-3.replay"


@pytest.mark.parametrize("mode", ["r+", "r"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_the_live_steps_are_the_listed_ones(residency, mode, tmp_path):
    """With every residency, to a writer and to a reader; priorities are those of the steps; and it goes on."""
    path = shutil.copy(KEPT, tmp_path / "format-3.replay")
    with rv.open(path, residency, mode) as buffer:
        index = buffer.engine.index
        assert (buffer.capacity, buffer.streams, len(buffer)) == (600, 3, 100)
        assert (index.tail.tolist(), index.head.tolist()) == (made.TAILS, made.HEADS)
        sampler = rv.Prioritized()
        batch = buffer.sample(300, 1, sampler=sampler)
        np.testing.assert_array_equal(batch.obs[:, 0], np.stack([batch.anchor, batch.stream], axis=1))
        np.testing.assert_array_equal(batch.reward[:, 0], batch.anchor / 4)
        assert set(batch.anchor[batch.stream == 0].tolist()) <= set(range(83, 133))
        weights = sampler.save()["steps"]["weights"]
        assert len(set(weights[83:133].tolist())) > 20  # slot = id: nothing has come round yet
        if mode == "r+":
            buffer.add(
                obs=np.zeros(2, np.float32), action=0, reward=0.0, terminated=False, truncated=False, stream=2
            )
            assert len(buffer) == 101
    assert list(verify_file(path))[-1] == ("nothing is wrong", False)


def test_the_file_was_not_changed():
    """A change of it would make this test worthless: a new version comes beside it."""
    assert (
        hashlib.sha256(KEPT.read_bytes()).hexdigest()
        == "38f2f8ce74202501cf476f5593c0d80e2fece045fed6e88ce2d0703e0c54da13"
    )

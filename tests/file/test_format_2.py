"""A replay file of format version 2, kept for ever: every later reverie opens it and finds what was in it."""

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie as rv

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import make_format_2 as made  # noqa: E402  # kept beside the file that it made

KEPT = DATA / "format-2.replay"


@pytest.mark.parametrize("mode", ["r+", "r"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_steps_and_metadata_are_the_listed_ones(residency, mode, tmp_path):
    """With every residency, to a writer and to a reader; and it goes on."""
    path = shutil.copy(KEPT, tmp_path / "format-2.replay")
    with rv.open(path, residency, mode) as buffer:
        assert buffer.episodes.metadata == made.METADATA
        assert buffer.episodes["stop"].tolist() == [20, 40, 60]
        assert buffer.episodes["ended"].tolist() == ["truncated", "terminated", "running"]
        batch = buffer.sample(64, 1, boundary="pad_right")
        np.testing.assert_array_equal(batch.obs[:, 0, 0], batch.anchor)
        np.testing.assert_array_equal(batch.reward[:, 0], batch.anchor / 4)
        if mode == "r+":
            buffer.annotate(episode=1, late=True)
            assert buffer.episodes.metadata[1] == {"late": True}
    with rv.open(path, mode="r") as buffer:
        assert buffer.episodes.metadata[1] == ({"late": True} if mode == "r+" else {})


def test_the_file_was_not_changed():
    """A change of it would make this test worthless: a new version comes beside it."""
    assert (
        hashlib.sha256(KEPT.read_bytes()).hexdigest()
        == "d525a855612aebe4a5fc42b0aa837027860f900b858c6dcbe647926b2391ba07"
    )

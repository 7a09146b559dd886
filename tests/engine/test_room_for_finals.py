"""Room for a final observation is made before anything is decided: where there is none, nothing has happened."""

import numpy as np
import pytest

import reverie as rv
from support.buffers import scalar_spec


def end_one(buffer: rv.ReplayBuffer) -> None:
    """End the episode of one stream with a step."""
    buffer.add(obs=1, action=0, reward=1.0, terminated=True, truncated=False, final_obs=2)


def end_both(buffer: rv.ReplayBuffer) -> None:
    """End the episodes of two streams in one call."""
    buffer.add_batch(obs=[1, 1], action=[0, 0], reward=[1.0, 1.0], terminated=[True, True], truncated=[False, False],
                     final_obs=[2, 2])  # fmt: skip


def cut_one(buffer: rv.ReplayBuffer) -> None:
    """Cut the episode of one stream."""
    buffer.cut(0, final_obs=2)


@pytest.mark.parametrize("filed", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("change", [end_one, end_both, cut_one])
def test_where_no_room_is_left_nothing_has_happened(change, filed, tmp_path, monkeypatch):
    """In memory and file alike, at once and after the next call, which finds room again."""
    path = tmp_path / "a.replay" if filed else None
    buffer = rv.ReplayBuffer(scalar_spec(), 20, streams=2, path=path, seed=0, residency="ram")
    buffer.add_batch(
        obs=[0, 0], action=[0, 0], reward=[1.0, 1.0], terminated=[False, False], truncated=[False, False]
    )

    def refused(self: object, count: int) -> None:
        raise MemoryError

    monkeypatch.setattr(type(buffer.engine.finals), "reserve", refused)
    with pytest.raises((MemoryError, rv.TooLarge)):
        change(buffer)
    monkeypatch.undo()
    assert (len(buffer), buffer.episodes["ended"].tolist()) == (2, ["running", "running"])
    buffer.add(obs=5, action=0, reward=1.0, terminated=False, truncated=False)
    assert (len(buffer), buffer.episodes["ended"].tolist()) == (3, ["running", "running"])
    buffer.close()
    if filed:
        with rv.open(path, mode="r") as back:
            assert sorted(back.episodes["length"].tolist()) == [1, 2]


@pytest.mark.parametrize("how", ["terminated", "truncated"])
@pytest.mark.parametrize("call", ["extend", "add_batch"])
def test_only_the_final_observations_of_ends_are_looked_at(call, how):
    """In a row of a step that ends nothing may lie anything; in that of an end it has to fit, however that ended."""
    spec = rv.StepSpec(rv.Field((), "float32", finite=True), rv.Field((), "int64"))
    ends = {"terminated": [False] * 3, "truncated": [False] * 3} | {how: [False, True, False]}
    for final, fits in (([np.nan, 7, np.nan], True), ([7, np.nan, 7], False)):
        buffer = rv.ReplayBuffer(spec, 30, streams=3, seed=0)
        given = {"obs": np.ones(3, np.float32), "action": [0, 0, 0], "reward": [0.0] * 3, **ends,
                 "final_obs": np.array(final, np.float32)}  # fmt: skip
        if fits:
            getattr(buffer, call)(**given)
            assert (len(buffer), np.count_nonzero(buffer.episodes["ended"] == how)) == (3, 1)
        else:
            with pytest.raises(rv.SpecMismatch, match="final_obs"):
                getattr(buffer, call)(**given)
            assert len(buffer) == 0

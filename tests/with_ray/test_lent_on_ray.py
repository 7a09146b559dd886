"""Draws whose bytes Ray does not carry, and draws whose bytes it does: what arrives is what the shards have."""

import gc
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import reverie as rv

ray = pytest.importorskip("ray")
from reverie.ray import ShardedBuffer  # noqa: E402
from reverie.ray.lent import Lender  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("ignore")]

FRAMES = rv.StepSpec(obs=rv.Field((16, 16), "int64"), action=rv.Field((), "int64"))
LENGTH = 6
SAMPLERS = {
    "Uniform": rv.Uniform,
    "Mixture": lambda: rv.Mixture([(rv.Uniform(), 0.5), (rv.VisitBalanced(0), 0.5)]),
    "Shuffled": rv.Shuffled,
    "Fresh": lambda: rv.Fresh(rv.Uniform()),
}


def frame(stream, number):
    return np.full((16, 16), 1_000 * stream + number)


def filled(tmp_path, **settings):
    """Return shards of two streams each, whose frames tell where they stand."""
    buffer = ShardedBuffer(FRAMES, 800, streams_per_shard=2, directory=tmp_path, seed=3, **settings)
    for stream in range(buffer.streams):
        with buffer.writer(stream) as writer:
            for number in range(100):
                ends = number % 20 == 19
                writer.add(
                    obs=frame(stream, number),
                    action=number,
                    reward=0.0,
                    terminated=ends,
                    truncated=False,
                    final_obs=frame(stream, number + 1) if ends else None,
                )
    return buffer


def check(batch):
    """See that every frame stands where the batch says."""
    there = 1_000 * batch.stream[:, None] + batch.anchor[:, None] + np.arange(LENGTH + 1)
    shown = there[:, :, None, None] == batch.obs
    assert shown[:, :LENGTH].all()
    assert (shown[:, LENGTH] | ~batch.obs_mask[:, LENGTH, None, None]).all()
    assert (batch.action == batch.step_ids()).all()
    batch.obs[...] = -1  # it is the learner's own


@pytest.mark.parametrize("shards", [1, 2])
def test_batches_are_whole_whichever_way_they_come(tmp_path, monkeypatch, shards):
    """With every way of asking, in new batches and in old ones; a shard that cannot be reached is lent no more."""
    with filled(tmp_path, shards=shards) as buffer:
        for reached in (True, False):
            if not reached:
                monkeypatch.setattr("reverie.ray.lent.Lent", Elsewhere)
                for part in buffer._shards:
                    part._lender = Lender()
            for make in SAMPLERS.values():
                sampler, out = make(), None
                for size in (64, 48, 64):
                    check(buffer.sample(size, LENGTH, sampler=sampler))
                    out = buffer.sample(64, LENGTH, sampler=sampler, out=out)
                    check(out)
                batch = buffer.sample(64, LENGTH, sampler=sampler, fields=["action"])
                assert (batch.action == batch.step_ids()).all()
            assert [part._lender.near for part in buffer._shards] == [reached] * shards


class Elsewhere:
    """A block of another machine: its path leads nowhere here."""

    def __init__(self, nbytes):
        from reverie.ray.lent import Loan

        self.loan = Loan("/proc/0/fd/0", "reverie-elsewhere", nbytes, 0)


def test_ray_carries_no_frames_of_shards_that_are_near(tmp_path, monkeypatch):
    """What it carries is counted where the driver unpacks it."""
    sent = []
    opened = Lender.opened

    def noted(self, layout, lent, block):
        sent.append(block is not None)
        return opened(self, layout, lent, block)

    monkeypatch.setattr(Lender, "opened", noted)
    with filled(tmp_path, shards=2) as buffer:
        for _ in range(5):
            buffer.sample(64, LENGTH)
        assert sent == [False] * 10
        sent.clear()
        buffer.sample(1, 1, fields=["action"])
        assert all(sent)  # a few bytes travel in the answer


def test_a_shard_that_is_stopped_or_killed_spoils_no_batch(tmp_path):
    """It may write when nobody waits any more, and the next draws have other rows in the same block."""
    with filled(tmp_path, shards=2, policy="others", wait_s=1.0) as buffer:
        for sign in (signal.SIGSTOP, signal.SIGKILL):
            check(buffer.sample(64, LENGTH))
            process = buffer.inspect()[1]["process"]
            os.kill(process, sign)
            for size in (64, 300, 40):
                batch = buffer.sample(size, LENGTH)
                check(batch)
            if sign == signal.SIGSTOP:
                assert batch.missing == (1,)
                os.kill(process, signal.SIGCONT)
            while buffer.sample(8, LENGTH).missing:
                pass
            for size in (300, 64, 300):
                check(buffer.sample(size, LENGTH))
            assert [part._lender.near for part in buffer._shards] == [True, True]


def test_blocks_end_with_the_learner(tmp_path):
    """Neither this process nor a shard holds a block when the buffer is gone."""
    buffer = filled(tmp_path, shards=1)
    before = blocks("self")
    check(buffer.sample(64, LENGTH))
    process = buffer.inspect()[0]["process"]
    (lent,) = blocks("self") - before
    assert lent in blocks(process)
    buffer.stop()
    del buffer
    gc.collect()
    assert lent not in blocks("self")


def blocks(process):
    """Return the names of blocks that a process can write to."""
    return set(re.findall(r"reverie-[0-9a-f]{32}", Path(f"/proc/{process}/maps").read_text()))

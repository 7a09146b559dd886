"""A dataset's workers and epochs draw differently, repeatably, and leave the buffer's randomness alone."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import reverie as rv
from reverie.torch import SequenceDataset, dataset, feed
from support.batches import assert_equal, frame_spec, frames, nested_spec, write


def as_worker(monkeypatch, number: int, workers: int) -> None:
    monkeypatch.setattr(dataset, "get_worker_info", lambda: SimpleNamespace(id=number, num_workers=workers))


def anchors(batches) -> list:
    return [batch.anchor.tolist() for batch in batches]


def test_a_loader_gives_whole_batches():
    """DataLoader with batch_size=None hands on batches as the dataset drew them, each epoch another set."""
    loader = DataLoader(
        SequenceDataset(frames(), 6, 4, boundary="pad_right", seed=1, batches=5), batch_size=None
    )
    first, second = list(loader), list(loader)
    assert len(first) == len(second) == 5
    assert first[0].obs.shape == (6, 5, 3, 4, 4)
    assert first[0].obs.dtype == torch.uint8
    assert first[0].extras["value"].shape == (6, 4, 2)
    drawn = [tuple(row) for row in anchors(first) + anchors(second)]
    assert len(set(drawn)) == 10


def test_the_seed_fixes_every_epoch():
    """Two datasets with one seed agree epoch by epoch; another seed gives other batches."""

    def epochs(seed):
        data = SequenceDataset(frames(), 6, 4, seed=seed, batches=3)
        return [anchors(data) for _ in range(3)]

    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)


def test_the_buffer_keeps_its_own_randomness():
    """Drawing through a dataset does not change what the buffer itself draws next."""
    ours, theirs = frames(), frames()
    list(SequenceDataset(ours, 6, 4, batches=3))
    wanted, got = theirs.sample(6, 4), ours.sample(6, 4)
    np.testing.assert_array_equal(got.anchor, wanted.anchor)


def test_batches_are_those_of_sample():
    """A batch is what `sample` gives for the random state of (seed, worker, epoch)."""
    ours, theirs = frames(), frames()
    key = np.random.SeedSequence(7, spawn_key=(0, 0))
    theirs.engine.memories.rng = np.random.Generator(np.random.Philox(key))
    how = {"boundary": "cross", "burn_in": 1}
    for batch in SequenceDataset(ours, 6, 4, seed=7, batches=3, sampler=rv.EpisodeUniform(), **how):
        wanted = theirs.sample(6, 4, sampler=rv.EpisodeUniform(), **how)
        batch = dataclasses.replace(batch, _drawn=wanted)  # a dataset's batch has none
        assert_equal(batch, wanted)


def test_workers_share_an_epoch_and_draw_differently(monkeypatch):
    """Three workers split seven batches, and no two of them draw the same one, in any epoch."""
    buffer, drawn = frames(), []
    monkeypatch.setattr(dataset, "open_reader", lambda path: buffer)
    data = SequenceDataset("a.replay", 6, 4, seed=0, batches=7)
    for _ in range(2):
        counts = []
        for worker in range(3):
            as_worker(monkeypatch, worker, 3)
            mine = anchors(data)
            counts.append(len(mine))
            drawn += [tuple(row) for row in mine]
        assert counts == [3, 2, 2]
    assert len(set(drawn)) == 14


WORKERS = """
import sys
from torch.utils.data import DataLoader
from reverie.torch import SequenceDataset

def epochs(seed, **how):
    data = SequenceDataset(sys.argv[1], 6, 4, boundary="pad_right", seed=seed, batches=6)
    loader = DataLoader(data, batch_size=None, num_workers=2, **how)
    got = []
    for _ in range(2):
        batches = list(loader)
        assert all((batch.obs[:, 0, 0, 0, 0] == batch.start % 256).all() for batch in batches)
        got.append(sorted(tuple(batch.anchor.tolist()) for batch in batches))
    return got

if __name__ == "__main__":
    gone, kept = epochs(0), epochs(0, persistent_workers=True)
    assert gone == kept != epochs(1)
    drawn = [batch for epoch in gone for batch in epoch]
    print(len(drawn), len(set(drawn)))
"""


def test_workers_draw_differently_from_one_file(tmp_path):
    """Workers of one epoch and persistent ones give the same twelve different batches in two epochs, all of them true."""
    path, script = tmp_path / "a.replay", tmp_path / "workers.py"
    with rv.ReplayBuffer(frame_spec(), 200, seed=0, path=path) as buffer:
        for step in range(250):
            buffer.add(obs=np.full((3, 4, 4), step % 256, np.uint8), action=step, reward=0.0, truncated=False,
                       terminated=step % 20 == 19, value=np.zeros(2, np.float32))  # fmt: skip
    script.write_text(WORKERS)
    # A process of its own: to fork one in which other tests have started threads is asking for trouble.
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True, timeout=100)
    assert done.stdout == "12 12\n", done.stderr


WRAPPED = """
import sys
import numpy as np
from torch.utils.data import DataLoader, Dataset
import reverie as rv

class Draws(Dataset):
    def __init__(self, draw):
        self.draw = draw
    def __len__(self):
        return 6
    def __getitem__(self, number):
        return self.draw()

class Reader:
    def __init__(self, path):
        self.buffer = rv.open(path, "disk", mode="r", seed=0)
    def __call__(self):
        return self.buffer.sample(8, 4).anchor

def check(draw, **how):
    loader = DataLoader(Draws(draw), batch_size=None, num_workers=2, **how)
    batches = [tuple(np.asarray(batch).tolist()) for _ in range(2) for batch in loader]
    assert len(batches) == 12
    print(len(set(batches)))

if __name__ == "__main__":
    reader = Reader(sys.argv[1])
    drop_in = rv.IRISReplayBuffer(500, (3, 8, 8), 4, seq_len=4, batch_size=8, seed=0)
    for step in range(250):
        drop_in.add(np.full((3, 8, 8), step, np.uint8), step % 4, 0.0, step % 20 == 19)
    packed = rv.ReplayBuffer(rv.StepSpec(rv.Field((300,), "float64"), rv.Field((), "int64")), 1000, residency="packed")
    for step in range(500):
        packed.add(obs=np.full(300, step, np.float64), action=step, reward=0.0, terminated=False, truncated=False)
    packed.sample(64, 5)
    for draw in (lambda: drop_in.sample_sequence()[0][:, 0, 0, 0, 0], lambda: drop_in.sample_frames(8)[:, 0, 0, 0],
                 lambda: packed.sample(64, 5).anchor, lambda: reader()):
        check(draw, multiprocessing_context="fork")
        check(draw, multiprocessing_context="fork", persistent_workers=True)
    check(reader, multiprocessing_context="spawn", persistent_workers=True)
"""


def test_no_two_workers_draw_alike_from_a_wrapped_buffer(tmp_path):
    """Two epochs of two workers over a drop-in buffer, a packed one and a reader give batches that all differ."""
    path, script = tmp_path / "a.replay", tmp_path / "workers.py"
    with rv.ReplayBuffer(frame_spec(), 200, seed=0, path=path) as buffer:
        for step in range(250):
            buffer.add(obs=np.full((3, 4, 4), step % 256, np.uint8), action=step, reward=0.0, truncated=False,
                       terminated=step % 20 == 19, value=np.zeros(2, np.float32))  # fmt: skip
    script.write_text(WRAPPED)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, path], capture_output=True, text=True, timeout=200
    )
    assert (done.stdout.split(), done.stderr) == (["12"] * 9, "")


@pytest.mark.parametrize("boundary", ["inside", "cross"])
def test_a_batch_travels_between_processes_in_one_block(boundary):
    """However many tensors it has, one block is sent; what arrives is the same batch, of any kind of fields."""
    buffer = write(rv.ReplayBuffer(nested_spec(), 90, seed=3), 60, 3)
    batch = next(iter(SequenceDataset(buffer, 5, 6, boundary=boundary, seed=0)))
    _, (_, parts, block, stride) = dataset._reduce(batch)
    assert stride == 1
    assert isinstance(parts["reward"], dataset.Part)  # where it lies, not what it holds
    assert block.nbytes == batch.reward.untyped_storage().nbytes()
    sent = pickle.loads(ForkingPickler.dumps(batch))
    assert type(sent) is type(batch)
    wanted, got = [], []
    batch.map(wanted.append)
    sent.map(got.append)
    assert len(got) == len(wanted)
    assert all(map(torch.equal, got, wanted))
    with pytest.raises(rv.BadSetting, match="host: wanted a batch of a feed"):
        _ = sent.host


def test_a_batch_of_a_feed_travels_too():
    """What does not lie in one block is sent as it is, addresses included."""
    with feed(frames(), 4, 3, device="cpu") as batches:
        batch = next(batches)
    sent = pickle.loads(ForkingPickler.dumps(batch))
    assert torch.equal(sent.obs, batch.obs)
    np.testing.assert_array_equal(sent.host.anchor, batch.host.anchor)


def test_each_process_opens_the_file_for_itself(monkeypatch):
    """A reader is opened once in a process, and never goes along in a pickle or over a fork."""
    opened = []
    monkeypatch.setattr(dataset, "open_reader", lambda path: opened.append(path) or frames())
    data = SequenceDataset("a.replay", 2, 2, batches=1)
    list(data), list(data)
    assert [str(path) for path in opened] == ["a.replay"]
    monkeypatch.setattr(dataset.os, "getpid", lambda: -1)
    list(data)
    assert len(opened) == 2
    state = data.__getstate__()
    assert state["_opened"] is None
    assert pickle.dumps({key: value for key, value in state.items() if key != "_epochs"})


def test_a_live_buffer_is_refused_in_workers(monkeypatch):
    """A worker would see a frozen copy of it: the remedy is named."""
    as_worker(monkeypatch, 0, 2)
    with pytest.raises(rv.BadSetting, match="num_workers: wanted 0 with a buffer in memory"):
        next(iter(SequenceDataset(frames(), 2, 2)))
    as_worker(monkeypatch, 5000, 5001)
    with pytest.raises(rv.BadSetting, match="num_workers: wanted at most 1024"):
        next(iter(SequenceDataset("a.replay", 2, 2)))


def test_an_endless_dataset_goes_on():
    """Without `batches` an epoch has no end."""
    batches = iter(SequenceDataset(frames(), 2, 2, seed=0))
    assert len({tuple(next(batches).anchor.tolist()) for _ in range(50)}) > 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": 0}, "batches: wanted"),
        ({"batch_size": 0}, "batch_size: wanted"),
        ({"length": -1}, "length: wanted"),
        ({"burn_in": None}, "burn_in: wanted"),
        ({"seed": "x"}, "seed: wanted"),
        ({"sampler": 3}, "sampler: wanted"),
        ({"boundary": "inward"}, "boundary: wanted"),
    ],
)
def test_bad_settings_are_refused(change, message):
    """Arguments are checked when the dataset is made, before any worker has begun."""
    with pytest.raises(rv.BadSetting, match=message):
        SequenceDataset(**{"source": frames(), "batch_size": 2, "length": 2, **change})

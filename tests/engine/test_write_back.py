"""write_back stores new values of extra fields in the rows they belong to, and nowhere else."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import Pair, assert_shows
from reverie.index import BOUNDARIES
from support.buffers import rich_spec, rich_step, scalar_spec


def tags(buffer: rv.ReplayBuffer, steps: int) -> dict:
    """The extra field of every live step, read through batches."""
    batch = buffer.sample(steps, 1, boundary="pad_right", sampler=rv.Shuffled())
    addresses = zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)
    return dict(zip(addresses, batch.extras["tag"][:, 0].tolist(), strict=True))


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("burn_in", [0, 3])
def test_every_real_step_of_a_batch_gets_its_value_and_no_other_step_does(boundary, burn_in):
    """Padding and closing rows write nothing; context does; where windows overlap, the later row counts."""
    pair = Pair(120, 3, mean_length=5, seed=1).grow(95, 11, 41)
    for number in range(5):
        batch = pair.buffer.sample(15, 4, boundary=boundary, burn_in=burn_in)
        values = (1000 * number + np.arange(15 * (4 + burn_in))).reshape(15, -1).astype(np.float32)
        pair.buffer.write_back(batch, tag=values)
        ids = batch.step_ids()
        for row in range(15):
            for place in range(4 + burn_in):
                closing = boundary == "cross" and batch.is_last[row, place]
                if batch.mask[row, place] and not closing:
                    where = int(batch.stream[row]), int(ids[row, place])
                    pair.twin.write_back("tag", *where, float(values[row, place]))
        pair.grow(2, 1, 3)
    wanted = {
        address: pair.twin.streams[address[0]].steps[address[1]].extras["tag"]
        for address in pair.twin.live_steps()
    }
    assert tags(pair.buffer, len(pair.twin)) == wanted
    assert_shows(
        pair.buffer.sample(40, 4, boundary=boundary, burn_in=burn_in), pair.twin, 4, boundary, burn_in
    )


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
def test_late_values_never_reach_the_steps_that_came_after(boundary):
    """Values for evicted steps are ignored: the new tenants of their slots keep what they were added with."""
    pair = Pair(90, 3, mean_length=5, seed=2).grow(60, 40, 35)
    batch = pair.buffer.sample(30, 3, boundary=boundary)
    pair.grow(15, 40, 2)
    before = tags(pair.buffer, len(pair.twin))
    pair.buffer.write_back(batch, tag=np.full((30, 3), -1, np.float32))
    after = tags(pair.buffer, len(pair.twin))
    changed = {address for address in before if after[address] != before[address]}
    shown = {(int(stream), int(step)) for stream, ids, real in zip(batch.stream, batch.step_ids(), batch.mask, strict=True)
             for step in ids[real] if step >= 0}  # fmt: skip
    assert changed == shown & set(pair.twin.live_steps())
    assert changed
    assert shown - changed, "some were evicted"


def test_vectors_and_several_fields_are_written_at_once():
    """Fields of any shape and dtype; those that are not named stay as they are."""
    buffer = rv.ReplayBuffer(rich_spec(), 10, seed=0)
    for number in range(8):
        buffer.add(**rich_step(number))
    batch = buffer.sample(1, 3)
    start = int(batch.start[0])
    buffer.write_back(batch, logits=np.full((1, 3, 2), 0.5, np.float32), clock=[[7, 8, 9]])
    whole = buffer.sample(50, 1, boundary="pad_right")
    for row, step in enumerate(whole.anchor.tolist()):
        inside = start <= step < start + 3
        assert whole.extras["clock"][row, 0] == (7 + step - start if inside else step)
        assert whole.extras["logits"][row, 0].tolist() == ([0.5, 0.5] if inside else [step, step + 1])
        assert whole.action[row, 0, 0] == step


@pytest.mark.parametrize(
    "values",
    [{"nothing": np.zeros((4, 3))}, {"obs": np.zeros((4, 3), np.int64)}, {"reward": np.zeros((4, 3))},
     {"tag": np.zeros((4, 2), np.float32)}, {"tag": np.zeros(4, np.float32)}, {"tag": np.zeros((4, 3, 1), np.float32)},
     {"tag": "x"}, {"tag": np.zeros((4, 3), np.complex64)}, {"tag": np.ones((4, 3), np.float32), "nothing": 1}],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(values):
    """An unknown field, one that is no extra, a wrong shape or dtype: refused before anything is written."""
    pair = Pair(30, 1, mean_length=6).grow(20)
    before, batch = tags(pair.buffer, 20), pair.buffer.sample(4, 3)
    with pytest.raises(rv.SpecMismatch, match=r"wanted .*got .*;"):
        pair.buffer.write_back(batch, **values)
    assert tags(pair.buffer, 20) == before


def test_a_closed_buffer_takes_nothing_back():
    """BufferClosed for values and for priorities; without extras there is nothing to name."""
    pair, sampler = Pair(30, 1, mean_length=6).grow(20), rv.Prioritized()
    batch = pair.buffer.sample(4, 3, sampler=sampler)
    pair.buffer.close()
    with pytest.raises(rv.BufferClosed):
        pair.buffer.write_back(batch, tag=np.zeros((4, 3), np.float32))
    with pytest.raises(rv.BufferClosed):
        pair.buffer.update_priorities(batch, np.zeros(4))
    plain = rv.ReplayBuffer(scalar_spec(), 10, seed=0)
    plain.add(obs=1, action=0, reward=0.0, terminated=True, truncated=False)
    with pytest.raises(rv.SpecMismatch, match="extras"):
        plain.write_back(plain.sample(1, 1), tag=[[1.0]])


@pytest.mark.parametrize("written", [False, True])
def test_an_interrupt_leaves_memory_with_what_the_file_has(written, tmp_path, monkeypatch):
    """New values come into memory if they have come into the file, whichever it was that the interrupt met."""
    spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), {"tag": rv.Field((), "float32")})
    with rv.ReplayBuffer(spec, 50, path=tmp_path / "a.replay", seed=0) as buffer:
        for step in range(40):
            buffer.add(obs=step, action=0, reward=0.0, terminated=False, truncated=False, tag=np.float32(1))
        writer = buffer.engine.changes.writer
        rewrite = writer.rewrite

        def interrupted(*args: object) -> None:
            if written:
                rewrite(*args)
            raise KeyboardInterrupt

        batch = buffer.sample(30, 1)
        monkeypatch.setattr(type(writer), "rewrite", lambda self, *args: interrupted(*args))
        with pytest.raises(KeyboardInterrupt):
            buffer.write_back(batch, tag=np.full((30, 1), 2, np.float32))
        monkeypatch.undo()
        seen = tags(buffer, 40)
        assert set(seen.values()) == ({1.0, 2.0} if written else {1.0})
        assert sum(value == 2.0 for value in seen.values()) == len(set(batch.anchor.tolist())) * written
    with rv.open(tmp_path / "a.replay", mode="r") as buffer:
        assert tags(buffer, 40) == seen


def test_a_batch_of_steps_that_is_too_large_is_refused_by_name():
    """It says how many steps were asked for, before anything is drawn."""
    buffer = rv.ReplayBuffer(scalar_spec(), 10, seed=0)
    buffer.add(obs=0, action=0, reward=0.0, terminated=True, truncated=False)
    with pytest.raises(rv.TooLarge, match=r"windows of 1 step"):
        buffer.sample_steps(2**48)

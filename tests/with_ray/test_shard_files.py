"""What a shard does with its file, without Ray: steps are stored once, streams have one writer, and files fit."""

import multiprocessing

import numpy as np
import pytest

import reverie as rv
from reverie.errors import BadSetting, FileError, SpecMismatch
from reverie.ray.shard import Facts, Piece, Shard

SPEC = rv.StepSpec(obs=rv.Field((2,), "float32"), action=rv.Field((), "int64"))


def facts(tmp_path, **changes):
    known = Facts("run", 0, 1, SPEC, 100, 2, "ram", "step", 0, str(tmp_path), 0.3)
    return known._replace(**changes)


def piece(first, count, ends=False, **rest):
    obs = np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 2, 1)
    ended = np.zeros(count, bool)
    ended[-1:] = ends
    rows = {
        "obs": obs,
        "action": np.arange(first, first + count),
        "reward": np.zeros(count),
        "terminated": ended,
    }
    return Piece(count, {**rows, "truncated": np.zeros(count, bool)}, **rest)


def append(shard, stream, writer, first, pieces):
    return shard.append(stream, writer, first, pieces, False)


@pytest.fixture
def shard(tmp_path):
    shard = Shard(facts(tmp_path))
    yield shard
    shard.close()


def stored(shard, stream=0):
    return [episode.action.tolist() for episode in shard.episodes_at(None) if episode.stream == stream]


def test_steps_that_are_there_are_left_out(shard):
    """A batch that comes again, whole or with more behind it, stores what is new alone."""
    assert shard.claim(0, "w", False) == 0
    assert append(shard, 0, "w", 0, [piece(0, 3)]) == 3
    assert append(shard, 0, "w", 0, [piece(0, 3)]) == 3
    assert append(shard, 0, "w", 1, [piece(1, 4, ends=True), piece(5, 2)]) == 7
    assert append(shard, 0, "w", 1, [piece(1, 4, ends=True), piece(5, 2)]) == 7
    assert stored(shard) == [[0, 1, 2, 3, 4], [5, 6]]


def test_steps_beyond_the_head_are_refused(shard):
    """Nothing is stored, and the answer says where the stream ends."""
    shard.claim(0, "w", False)
    append(shard, 0, "w", 0, [piece(0, 3)])
    assert append(shard, 0, "w", 4, [piece(4, 3)]) == 3
    assert stored(shard) == [[0, 1, 2]]


def test_a_cut_that_comes_again_cuts_once(shard):
    """Also when steps came after it."""
    shard.claim(0, "w", False)
    cut = Piece(0, {}, True)
    assert append(shard, 0, "w", 0, [piece(0, 2), cut]) == 2
    assert append(shard, 0, "w", 0, [piece(0, 2), cut]) == 2
    assert append(shard, 0, "w", 2, [piece(2, 2)]) == 4
    assert append(shard, 0, "w", 0, [piece(0, 2), cut]) == 4
    assert append(shard, 0, "w", 4, [piece(4, 1)]) == 5
    assert stored(shard) == [[0, 1], [2, 3, 4]]


def test_a_stream_has_one_writer(shard, tmp_path):
    """Another is refused until the first lets go, or it takes over; then the first is refused, also in a new process."""
    shard.claim(1, "a", False)
    append(shard, 1, "a", 0, [piece(0, 2)])
    with pytest.raises(BadSetting, match=r"got stream 1, which another writer has; .*take_over=True"):
        shard.claim(1, "b", False)
    assert shard.claim(1, "b", True) == 2
    with pytest.raises(BadSetting, match="which another writer took over"):
        append(shard, 1, "a", 2, [piece(2, 2)])
    shard.close()
    again = Shard(facts(tmp_path))
    with pytest.raises(BadSetting, match="which another writer took over"):
        append(again, 1, "a", 2, [piece(2, 2)])
    assert append(again, 1, "b", 2, [piece(2, 1)]) == 3
    again.release(1, "b")
    assert again.claim(1, "c", False) == 3
    again.close()
    new = Shard(facts(tmp_path, run="next"))
    assert new.claim(1, "d", False) == 3
    assert stored(new, 1) == [[0, 1], [2]]
    new.close()


def hold(path, ready, done):
    with rv.open(path):
        ready.set()
        done.wait(20)


def test_a_file_that_another_process_has_is_waited_for(tmp_path):
    """With a deadline, and a message that names the file and the process."""
    Shard(facts(tmp_path)).close()
    made = Shard(facts(tmp_path))
    made.facts()
    made.close()
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(facts(tmp_path).path, ready, done))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(FileError, match=r"process \d+.*shard 0 waited 0.3 seconds"):
            Shard(facts(tmp_path)).facts()
        done.set()
        late = Shard(facts(tmp_path, lock_s=20.0))
        assert late.facts()[0].number == 0
        late.close()
    finally:
        done.set()
        other.join(20)


def test_files_of_another_buffer_are_refused(tmp_path):
    """Another number of shards, another spec, another size."""
    made = Shard(facts(tmp_path))
    made.facts()
    made.close()
    with pytest.raises(BadSetting, match=r"wanted files of 2 shards, got shard-000-of-001\.replay"):
        Shard(facts(tmp_path, shards=2)).facts()
    other = rv.StepSpec(obs=rv.Field((3,), "float32"), action=rv.Field((), "int64"))
    with pytest.raises(SpecMismatch, match="pass what the files were made with"):
        Shard(facts(tmp_path, spec=other)).facts()
    with pytest.raises(SpecMismatch, match="wanted a capacity of 50"):
        Shard(facts(tmp_path, capacity=50)).facts()

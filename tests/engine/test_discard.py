"""Episodes that are taken out: no sampler, boundary, table or file shows them any more."""

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import LEAST_P, Pair, assert_shows
from reverie.file.verify import verify_file
from reverie.index import BOUNDARIES, Anchors
from support.distributions import CASES, EveryNth, draw, given, p_value
from support.twin import Twin

SPEC = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))


def messy(seed: int, discard: bool = True) -> Pair:
    """Three streams in short episodes, of which every third that has ended is discarded."""
    pair = Pair(450, 3, mean_length=8, seed=seed)
    pair.twin = Twin(450, 3)
    pair.grow(320, 20, 170)
    if discard:
        thin_out(pair)
    return pair


def thin_out(pair: Pair) -> None:
    table = pair.buffer.episodes
    gone = table.ids[(table.ids % 3 == 1) & (table["ended"] != "running")]
    pair.buffer.discard(gone)
    pair.twin.discard(gone.tolist())


def episodes_of(*lengths: int, running: int = 0) -> rv.ReplayBuffer:
    """Episodes whose observations tell their number, and perhaps one that runs."""
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0)
    for number, length in enumerate(lengths):
        for step in range(length):
            buffer.add(obs=number, action=step, reward=1.0, terminated=step == length - 1, truncated=False)
    for step in range(running):
        buffer.add(obs=len(lengths), action=step, reward=1.0, terminated=False, truncated=False)
    return buffer


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("where", [None, EveryNth(2, (1,))], ids=["all", "half"])
@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_exact_distribution_of_what_is_left(case, boundary, where):
    """As if the discarded episodes had never been there; with a condition on top, too."""
    pair = messy(100 + CASES.index(case))
    sampler, wanted = case(pair, boundary, 3, where)
    count = 20_000 if isinstance(sampler, rv.Shuffled) else 60_000
    assert len(wanted) > 10
    assert p_value(draw(pair, sampler, boundary, 3, count), given(where, pair, wanted)) > LEAST_P


@pytest.mark.parametrize("case", CASES)
def test_what_was_discarded_after_draws_does_not_come_again(case):
    """Samplers that know weights, cursors and epochs of these episodes draw from others, at once and later on."""
    for boundary in sorted(BOUNDARIES):
        pair = messy(3, discard=False)
        sampler, _ = case(pair, boundary, 4)
        for _ in range(6):
            thin_out(pair)
            batch = pair.buffer.sample(40, 4, boundary=boundary, sampler=sampler, burn_in=2)
            if boundary == "cross":
                assert_shows(batch, pair.twin, 4, boundary, 2)
            valid = pair.twin.anchors(boundary, 4)
            assert set(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)) <= valid
            pair.grow(9, 1, 5)


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("length", [1, 2, 5, 13, 40])
def test_windows_are_counted_as_the_twin_counts_them(boundary, length):
    pair = messy(4)
    assert pair.buffer.count_windows(length, boundary) == len(pair.twin.anchors(boundary, length))
    assert len(pair.buffer) == len(pair.twin)


def test_fresh_goes_on_behind_a_gap():
    """Under "cross" the rows before a discarded episode that make no window are passed over, not waited for."""
    buffer = episodes_of(3, 2, 3, 2, 6, running=4)
    buffer.discard(2)
    fresh = rv.Fresh()
    batch = buffer.sample(8, 4, boundary="cross", sampler=fresh)
    shown = batch.obs.tolist()
    assert all(2 not in row for row in shown)
    assert {number for row in shown for number in row} >= {0, 3, 4, 5}


def test_tables_and_readers_leave_them_out():
    buffer = episodes_of(3, 4, 5, 2, running=3)
    buffer.annotate(episode=3, task="reach")
    late = buffer.episodes
    buffer.discard([1, 3])
    assert len(late) == 5
    assert buffer.episodes.ids.tolist() == [0, 2, 4]
    assert buffer.episodes["length"].tolist() == [3, 5, 3]
    assert buffer.episodes[-1]["ended"] == "running"
    assert buffer.episodes[1]["length"] == 5
    assert buffer.episodes.metadata == [{}, {}, {}]
    assert [len(one.reward) for one in buffer.read_episodes()] == [3, 5, 3]
    assert buffer.episode(1).obs.tolist() == [2] * 5
    assert len(buffer) == 11
    assert buffer.count_windows(2) == 2 + 4 + 1
    assert set(buffer.sample_steps(300).obs.tolist()) == {0, 2, 4}
    buffer.discard(buffer.episodes.ids[buffer.episodes["length"] == 5])
    assert buffer.episodes.ids.tolist() == [0, 4]


def test_it_is_forgotten_when_the_ring_comes_round():
    """Labels go with their episodes, and without discarded episodes everything costs what it did."""
    buffer = episodes_of(*[5] * 12)
    buffer.discard([0, 1, 2])
    for step in range(60):
        buffer.add(obs=99, action=0, reward=0.0, terminated=step % 5 == 4, truncated=False)
    index = buffer.engine.index
    assert not index.labels
    assert Anchors(index, "inside", 2).choice is None
    assert len(buffer) == 100


@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
@pytest.mark.parametrize("durability", ["step", "chunk"])
def test_a_file_keeps_it(tmp_path, residency, durability):
    """After a close, in a copy, and for a reader that is open; the file is whole."""
    path = tmp_path / "x.replay"
    buffer = rv.ReplayBuffer(SPEC, 100, path=path, residency=residency, durability=durability, seed=0)
    for number in range(8):
        for step in range(5):
            buffer.add(obs=number, action=step, reward=1.0, terminated=step == 4, truncated=False)
    buffer.flush()
    with rv.open(path, mode="r") as reader:
        assert len(reader.episodes) == 8
        buffer.discard([2, 7])
        buffer.save_as(tmp_path / "copy.replay")
        buffer.flush()
        assert reader.episodes.ids.tolist() == [0, 1, 3, 4, 5, 6]
        assert set(reader.sample(400, 2).obs[:, 0].tolist()) == {0, 1, 3, 4, 5, 6}
    buffer.close()
    for name in ("x", "copy"):
        with rv.open(tmp_path / f"{name}.replay") as again:
            assert again.episodes.ids.tolist() == [0, 1, 3, 4, 5, 6]
            assert set(again.sample(400, 2).obs[:, 0].tolist()) == {0, 1, 3, 4, 5, 6}
            assert len(again) == 30
        assert not any(is_finding for _, is_finding in verify_file(tmp_path / f"{name}.replay"))


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (9, "wanted one of buffer.episodes.ids, got 9"),
        ([0, 9], "wanted one of buffer.episodes.ids, got 9"),
        ([0, 2], r"wanted episodes that have ended, got 2, which runs in stream 0; end it first with buffer.cut\(0\)"),
        (1.5, "wanted an id of buffer.episodes.ids, or several, got 1.5"),
        ([True, False], r"a mask chooses them: buffer.episodes.ids\[mask\]"),
        ("first", "wanted an id"),
        ([[0]], "wanted an id"),
    ],
)  # fmt: skip
def test_what_cannot_be_discarded_is_refused_whole(which, words):
    buffer = episodes_of(3, 4, running=2)
    with pytest.raises(rv.BadSetting, match=words):
        buffer.discard(which)
    assert len(buffer.episodes) == 3


def test_twice_and_nothing():
    buffer = episodes_of(3, 4)
    buffer.discard([])
    buffer.discard([1, 1])
    with pytest.raises(rv.BadSetting, match="got 1; it never was, was discarded, or has been evicted"):
        buffer.discard(1)
    with pytest.raises(rv.BadSetting, match="was discarded"):
        buffer.annotate(episode=1, task="x")
    buffer.discard(np.array([0]))
    assert len(buffer.episodes) == len(buffer) == 0
    with pytest.raises(rv.NotEnoughData, match="none in the 0 of 2 live episodes that"):
        buffer.sample(1, 1)
    assert buffer.count_windows(1) == 0


def test_names_of_ours_cannot_be_set():
    buffer = episodes_of(3)
    with pytest.raises(rv.BadSetting, match="do not begin with 'reverie:', which are reserved"):
        buffer.annotate(episode=0, **{"reverie:discarded": True})
    assert len(buffer.episodes) == 1


def test_it_is_inspected(tmp_path, capsys):
    """`reverie inspect` counts what was discarded, and lists it no more."""
    from reverie.cli import main

    with rv.ReplayBuffer(SPEC, 64, seed=0, path=tmp_path / "a.replay") as buffer:
        for number in range(3):
            buffer.add(obs=number, action=0, reward=0.0, terminated=True, truncated=False)
        buffer.discard(1)
    main(["inspect", str(tmp_path / "a.replay")])
    assert "2 live: 2 ended (terminated); 1 discarded" in capsys.readouterr().out

"""A buffer that is held to a number of bytes lets its oldest runs go, and no more of them than it must."""

import numpy as np
import pytest

import reverie as rv

NOISE = rv.StepSpec(rv.Field((300,), "uint8"), rv.Field((), "int64"))  # 312 bytes a step that do not pack
LEAST = 12 * 32 * 312


def add(buffer: rv.ReplayBuffer, rng: np.random.Generator, stream: int = 0, ends: bool = False) -> None:
    """Add one step of noise, which ends its episode with a final observation if it `ends`."""
    obs, final = rng.integers(0, 256, (2, 300), np.uint8)
    buffer.add(obs=obs, action=0, reward=1.0, terminated=ends, truncated=False, stream=stream,
               final_obs=final if ends else None)  # fmt: skip


def taken(buffer: rv.ReplayBuffer) -> int:
    """The bytes that count."""
    engine = buffer.engine
    return engine.store.nbytes + engine.index.nbytes + engine.finals.nbytes


@pytest.mark.parametrize("ends_every", [0, 4])
def test_the_oldest_runs_go_and_the_budget_holds(ends_every):
    """It is never exceeded, always used but for the run that begins, and final observations count."""
    rng = np.random.default_rng(0)
    buffer = rv.ReplayBuffer(NOISE, 4_000, residency="packed", max_bytes=2 * LEAST, seed=0)
    index = buffer.engine.index
    tails = set()
    for step in range(1_500):
        add(buffer, rng, ends=bool(ends_every) and step % ends_every == ends_every - 1)
        assert taken(buffer) <= 2 * LEAST
        tails.add(int(index.tail[0]))
    assert all(tail % 32 == 0 for tail in tails)
    assert sorted(tails) == list(range(0, max(tails) + 1, 32))  # one after the other, none too many
    assert taken(buffer) > 2 * LEAST - 5 * 32 * 312
    assert (len(buffer), buffer.episodes[0]["live"] > 0) == (1_500 - max(tails), True)


def test_the_stream_that_holds_most_gives_first():
    """Of two streams the longer one loses its oldest runs, until it holds no more than the other."""
    rng = np.random.default_rng(1)
    buffer = rv.ReplayBuffer(NOISE, 8_000, streams=2, residency="packed", max_bytes=2 * LEAST, seed=0)
    index = buffer.engine.index
    for _ in range(64):
        add(buffer, rng, stream=1)
    for _ in range(900):
        add(buffer, rng, stream=0)
    assert (int(index.tail[1]), int(index.tail[0]) > 0) == (0, True)
    for _ in range(900):
        add(buffer, rng, stream=1)
    live = index.head - index.tail
    assert abs(int(live[0]) - int(live[1])) <= 64
    assert taken(buffer) <= 2 * LEAST


def test_a_stream_keeps_its_newest_runs(tmp_path):
    """However small the budget is beside what was stored under a larger one, a sealed run stays before the newest."""
    rng = np.random.default_rng(2)
    with rv.ReplayBuffer(
        NOISE, 2_000, residency="disk", max_bytes=2 * LEAST, path=tmp_path / "a.replay"
    ) as buffer:
        for _ in range(1_100):
            add(buffer, rng)
        used = buffer.engine.file.db.used_bytes
        assert used <= 2 * LEAST
        head, tail = int(buffer.engine.index.head[0]), int(buffer.engine.index.tail[0])
    assert (head, tail % 32) == (1_100, 0)
    assert head - tail > 64


def test_as_many_small_runs_go_as_a_large_one_needs():
    """Runs of zeros take little beside their final observations, and several of them make room for one of noise."""
    rng = np.random.default_rng(3)
    buffer = rv.ReplayBuffer(NOISE, 6_000, residency="packed", max_bytes=2 * LEAST, seed=0)
    index, zeros, went = buffer.engine.index, np.zeros(300, np.uint8), []
    for step in range(3_600):
        before = int(index.tail[0])
        obs = zeros if step < 3_200 else rng.integers(0, 256, 300, np.uint8)
        ends = step % 4 == 3
        final = rng.integers(0, 256, 300, np.uint8) if ends else None
        buffer.add(obs=obs, action=0, reward=1.0, terminated=ends, truncated=False, final_obs=final)
        assert taken(buffer) <= 2 * LEAST
        went.append((int(index.tail[0]) - before) // 32)
    assert max(went[:3_200]) == 1
    assert max(went[3_200:]) > 2
    assert taken(buffer) > 2 * LEAST - 5 * 32 * 312, "and no more than are needed"

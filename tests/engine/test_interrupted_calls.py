"""Ctrl-C in one short call, at whatever line: the next call finds the buffer with all of it or nothing."""

from collections.abc import Callable
from contextlib import suppress

import pytest

import reverie as rv
from support.buffers import scalar_spec
from support.faults import Lines


def filled() -> rv.ReplayBuffer:
    """Two full streams of 4 slots, whose oldest episode goes with the next step; both have a running one."""
    buffer = rv.ReplayBuffer(scalar_spec(), 8, streams=2, seed=0)
    for step in range(6):
        for stream in range(2):
            ends = step % 3 == 2 and step < 5
            buffer.add(obs=step, action=0, reward=0.5, terminated=ends, truncated=False, stream=stream,
                       final_obs=10 if ends else None)  # fmt: skip
    return buffer


def state(buffer: rv.ReplayBuffer) -> list[object]:
    """What a user can see."""
    batch = buffer.sample(len(buffer), 1, boundary="pad_right", sampler=rv.Shuffled())
    rows = sorted(zip(batch.stream.tolist(), batch.anchor.tolist(), batch.obs[:, :2].tolist(), batch.reward[:, 0].tolist(),
                      batch.terminated[:, 0].tolist(), batch.truncated[:, 0].tolist(), strict=True))  # fmt: skip
    finals = sorted(buffer.engine.index.live_final_slots().tolist())
    return [rows, buffer.episodes.tolist(), len(finals), len(set(finals))]


CALLS = {
    "add": lambda buffer: buffer.add(obs=9, action=0, reward=0.25, terminated=True, truncated=False, final_obs=99),
    "add_batch": lambda buffer: buffer.add_batch(
        obs=[9, 8], action=[0, 0], reward=[0.25, 0.125], terminated=[True, False], truncated=[False, True], final_obs=[99, 98]
    ),
    "cut": lambda buffer: buffer.cut(1, final_obs=97),
}  # fmt: skip


def all_calls(buffer: rv.ReplayBuffer, first: int) -> None:
    """Make every call once, beginning with one of them."""
    calls = list(CALLS.values())
    for each in calls[first:] + calls[:first]:
        each(buffer)


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupted_call_is_done_or_not(call):
    """And what comes after it is what would have come in either case, whether or not somebody looks in between."""
    act: Callable[[rv.ReplayBuffer], None] = CALLS[call]
    wanted = []
    for times in range(2):
        for first in range(len(CALLS)):
            buffer = filled()
            for _ in range(times):
                act(buffer)
            seen = state(buffer)
            all_calls(buffer, first)
            wanted.append((seen, first, state(buffer)))
    total = Lines(lambda: None, 10**9)
    buffer = filled()
    total.run(lambda: act(buffer))
    for line in range(3, total.seen + 1, 2):
        buffer = filled()
        with suppress(KeyboardInterrupt):
            Lines(lambda: KeyboardInterrupt, line).run(lambda buffer=buffer: act(buffer))
        first = line // 2 % len(CALLS)
        known = state(buffer) if line // 2 % 2 else None
        all_calls(buffer, first)
        found = state(buffer)
        assert any(known in (None, seen) and (first, found) == (begun, end) for seen, begun, end in wanted), (
            line
        )

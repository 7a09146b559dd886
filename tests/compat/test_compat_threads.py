"""Point 14: the drop-in buffer may be written and read from several threads at once."""

import sys
import threading

import numpy as np
import pytest
from test_compat import frame, make

import reverie as rv
from support.buffers import interrupted


def test_14_readers_never_see_a_torn_step():
    """While a writer wraps the ring, len() never drops and every draw shows whole steps in their order."""
    buffer = rv.IRISReplayBuffer(16, (3, 8, 8), 5, seq_len=3, batch_size=4, seed=0)
    stop, problems, interval = threading.Event(), [], sys.getswitchinterval()

    def picture(number):
        return np.full((3, 8, 8), number % 256, np.uint8)

    def write():
        number = 0
        while not stop.is_set():
            buffer.add(picture(number), number % 5, number, number % 7 == 6)
            number += 1

    def watch_length():
        longest = 0
        while not stop.is_set():
            length = len(buffer)
            assert length >= longest, f"{length} after {longest}"
            longest = length
        assert longest == 16

    def read():
        for _ in range(150):
            obs, actions, rewards, terminals = buffer.sample_sequence()
            steps = rewards.astype(np.int64)
            assert (np.diff(steps, axis=1) == 1).all()
            assert (obs[:, :3] == (steps % 256)[..., None, None, None]).all()
            np.testing.assert_array_equal(actions.argmax(axis=2), steps % 5)
            np.testing.assert_array_equal(terminals, steps % 7 == 6)
            frame, action, reward, terminal = buffer.sample_single()
            assert (frame == int(reward) % 256).all()
            assert (action.argmax(), terminal) == (reward % 5, reward % 7 == 6)
            start, before = buffer.sample_with_burn_in(4, 2)
            assert all((image == image[0, 0, 0]).all() for image in [*start, *before.reshape(-1, 3, 8, 8)])

    def caught(task):
        try:
            task()
        except BaseException as error:
            problems.append(error)

    for number in range(6):
        buffer.add(picture(number), number % 5, number, False)
    buffer.cut()
    tasks = [read, read, write, watch_length]
    threads = [threading.Thread(target=caught, args=(task,)) for task in tasks]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads[:2]:
            thread.join()
    finally:
        stop.set()
        for thread in threads[2:]:
            thread.join()
        sys.setswitchinterval(interval)
    assert not problems


@pytest.mark.parametrize("call", [
    len, lambda buffer: buffer.full, lambda buffer: buffer.add(frame(1), 0, 0.0, True), rv.IRISReplayBuffer.cut,
    rv.IRISReplayBuffer.sample_sequence, rv.IRISReplayBuffer.sample_single, lambda buffer: buffer.sample_frames(1),
    lambda buffer: buffer.sample_with_burn_in(1, 1), lambda buffer: trajectory().move_to(buffer),
], ids=["len", "full", "add", "cut", "sequence", "single", "frames", "burn-in", "move_to"])  # fmt: skip
@pytest.mark.parametrize("steps", [5, 15])
def test_14_all_that_reads_or_writes_holds_the_lock(call, steps):
    """No function that looks at episodes or bytes is entered without the buffer's lock, before or after the wrap."""
    buffer = make(10, seq_len=1)
    for number in range(steps):
        buffer.add(frame(number), 0, 0.0, number == 11)
    buffer.steps = steps  # the ring is read again, too
    entered = []

    def hook(python_frame, event, _argument):
        code = python_frame.f_code
        inner = code.co_filename.endswith(("gather.py", "plain.py")) or "reverie/index/" in code.co_filename
        if event == "call" and (inner or code.co_name == "idx"):
            entered.append(buffer.engine.lock._is_owned())

    sys.setprofile(hook)
    try:
        call(buffer)
    finally:
        sys.setprofile(None)
    assert entered
    assert all(entered)


def trajectory() -> rv.IRISOnPolicyBuffer:
    buffer = rv.IRISOnPolicyBuffer()
    buffer.add(frame(1), 0, 0.0, True, final_obs=frame(2))
    return buffer


@pytest.mark.parametrize(("steps", "end", "stride"), [(3, "", 1), (13, "", 1), (3, "terminal", 1), (13, "terminal", 1),
                                                      (13, "truncated", 1), (13, "terminal", 9)])  # fmt: skip
def test_an_interrupted_add_is_whole_or_not_there(steps, end, stride, tmp_path):
    """Ctrl-C before each line of an add: steps and episodes agree; with a file, before each ninth, there, too."""
    inner = ("replay.py", "counters.py", "transitions.py", "episodes.py")
    line, came = 0, True
    while came:
        line += stride
        buffer = make(10, path=tmp_path / f"{line}.replay" if stride > 1 else None)
        for number in range(steps):
            buffer.add(frame(number), 0, number, number % 3 == 1)
        ended = sum(number % 3 == 1 for number in range(steps))

        def add(buffer=buffer):
            buffer.add(frame(99), 0, 99.0, end == "terminal", truncated=end == "truncated")

        came = interrupted(add, line, inner, ("_take_back", "_derive_anew"))
        done = buffer.steps > steps
        assert done or came
        assert buffer.episodes == ended + (done and end == "terminal")
        buffer.add(frame(100), 0, 100.0, True)
        count = buffer.episodes
        assert count == ended + (done and end == "terminal") + 1
        buffer.close()
        if stride > 1:
            with rv.IRISReplayBuffer.open(tmp_path / f"{line}.replay") as resumed:
                assert (resumed.episodes, resumed.rewards[resumed.idx - 1]) == (count, 100.0)
    assert line > 20, "an add has lines to interrupt"

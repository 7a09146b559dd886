"""A feed gives the batches of `buffer.sample`, ahead of time, and leaves nothing behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import traceback
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.feeds import feed as feeds
from reverie.feeds.feed import Feed, drawing
from reverie.torch import feed
from reverie.torch.feed import SLOTS, Pinned
from support.batches import BOUNDARIES, SAMPLERS, assert_equal, frame_spec, frames, nested_spec, write

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SOON_S = 20.0  # far longer than anything here takes; reaching it means failure


class Counting(rv.Uniform):
    """Uniform, and counts its draws; `reached(n)` waits until there were n; `gate` holds draws back."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()

    def draw(self, anchors, rng, count):
        with self.changed:
            self.draws += 1
            self.changed.notify_all()
        assert self.gate.wait(SOON_S)
        return super().draw(anchors, rng, count)

    def reached(self, draws: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.draws >= draws, SOON_S)


class Refusing(rv.Uniform):
    """A sampler that raises whatever stands in `error`."""

    error: Exception | None = None

    def draw(self, anchors, rng, count):
        if self.error is not None:
            raise self.error
        return super().draw(anchors, rng, count)


def outcome(batches) -> str:
    """What `next` has to say: that there is a batch, or an error's message."""
    try:
        next(batches)
    except (rv.ReplayError, KeyError) as error:
        return str(error)
    return "a batch"


# --- what comes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_batches_are_those_of_sample(boundary, sampler, device):
    """Content and order are those of `buffer.sample` on an equal buffer, bit for bit, under every boundary."""
    twin, how = frames(), {"boundary": boundary, "burn_in": 2}
    theirs = SAMPLERS[sampler]()
    with feed(frames(), 6, 4, device=device, sampler=SAMPLERS[sampler](), **how) as batches:
        for _ in range(8):
            batch = next(batches)
            assert batch.obs.device.type == device
            assert_equal(batch, twin.sample(6, 4, sampler=theirs, **how))


@pytest.mark.parametrize("device", DEVICES)
def test_trees_and_dtypes_arrive_as_they_are(device):
    """Nested observations and actions of every size of element come through, from packed memory too."""

    def buffer(residency):
        return write(rv.ReplayBuffer(nested_spec(), 90, seed=3, residency=residency), 120, 3)

    twin = buffer("ram")
    with feed(buffer("packed"), 5, 6, device=device, boundary="pad_both") as batches:
        for _ in range(4):
            assert_equal(next(batches), twin.sample(5, 6, boundary="pad_both"))


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_yours(device):
    """Batches that are held do not change while others come, and writing into one changes no other."""
    with feed(frames(), 64, 8, device=device) as batches:  # large enough for memory to be used again
        held = [next(batches) for _ in range(6)]
        copies = [batch.map(torch.clone) for batch in held]
        for _ in range(12):
            next(batches).obs.fill_(7)
        for batch, copy in zip(held, copies, strict=True):
            assert torch.equal(batch.obs, copy.obs)
            assert torch.equal(batch.anchor, copy.anchor)


def test_host_takes_priorities_and_write_back():
    """`batch.host` is what the batch of `buffer.sample` would be: an address that the buffer and its sampler know."""
    buffer, sampler = frames(), rv.Prioritized(alpha=1.0, beta=0.5)
    with feed(buffer, 4, 3, device="cpu", sampler=sampler) as batches:
        drawn = next(batches).host
    buffer.update_priorities(drawn, np.array([1e6, 0.0, 0.0, 0.0]))
    buffer.write_back(drawn, value=np.full((4, 3, 2), 9.0, np.float32))
    again = buffer.sample(100, 3, sampler=sampler)
    chosen = (again.anchor == drawn.anchor[0]) & (again.stream == drawn.stream[0])
    assert chosen.sum() > 95
    assert (again.extras["value"][chosen] == 9.0).all()


def test_a_mapped_batch_keeps_its_kind():
    """`map` gives each array to the function, those in trees too."""
    with feed(frames(), 3, 2, device="cpu") as batches:
        batch = next(batches)
    doubled = batch.map(lambda tensor: torch.cat([tensor, tensor]))
    assert len(batch) == 3
    assert len(doubled) == 6
    assert doubled.extras["value"].shape == (6, 2, 2)
    assert repr(doubled).startswith("SequenceBatch(6 windows of 2 steps:\n")


# --- running ahead -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_it_runs_ahead_and_no_further(prefetch):
    """Batches are drawn before anyone asks, exactly `prefetch` of them, and one more for each that is taken."""
    sampler = Counting()
    with feed(frames(), 3, 2, device="cpu", sampler=sampler, prefetch=prefetch) as batches:
        assert sampler.reached(prefetch)
        for taken in range(1, 6):
            assert sampler.draws == prefetch + taken - 1  # all of them made, and the thread waits for room
            next(batches)
            assert sampler.reached(prefetch + taken)
    assert sampler.draws <= prefetch + 5


def test_pinned_slots_are_refilled_only_when_copied():
    """Two blocks serve any number of batches, though every copy is made as late as it may be."""

    class LateCopies:
        """Copies when somebody waits for the copy, and not a moment earlier."""

        def __init__(self):
            self.blocks = 0
            self.lock = threading.Lock()

        def pinned(self, nbytes):
            self.blocks += 1
            return torch.zeros(nbytes, dtype=torch.uint8)

        def upload(self, memory):
            block = torch.zeros_like(memory)
            return block, [memory, block]

        def wait(self, copy):
            with self.lock:
                if copy:
                    memory, block = copy
                    block.copy_(memory)
                    copy.clear()

        def hand_over(self, block, copy):
            self.wait(copy)

    buffer, twin, copies = frames(), frames(), LateCopies()
    _, draw = drawing(buffer, 5, 4, "pad_left", None, 1)
    way = Pinned(draw, buffer.engine.layouts.get(False, 5, 5), copies)
    with Feed(way.make, way.hand_over, 4) as batches:
        held = [next(batches) for _ in range(10)]
    assert copies.blocks == SLOTS == 2
    for batch in held:
        assert_equal(batch, twin.sample(5, 4, boundary="pad_left", burn_in=1))


def test_waiting_is_counted(monkeypatch):
    """`waited_s` is the time inside `next`, `waited_share` its share since the first `next`."""
    clock = iter(range(100))
    batches = Feed(lambda: 1, lambda made: made, 1)
    monkeypatch.setattr(feeds, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert batches.waited_share == 0.0
    assert [next(batches), next(batches)] == [1, 1]  # at 0 to 1, and at 2 to 3
    assert (batches.batches, batches.waited_s) == (2, 2.0)
    assert batches.waited_share == 2 / 4
    assert repr(batches) == "Feed(2 batches, waited 2 s, 40.0% of the time)"
    batches.close()


def test_a_writer_may_go_on():
    """While another thread adds and evicts, no window is torn: frames count up by one, to their successor."""
    spec = rv.StepSpec(rv.Field((64,), "int64"), rv.Field((), "int64"))
    buffer, number, stop = rv.ReplayBuffer(spec, 50, seed=0), 0, threading.Event()

    def add():
        nonlocal number
        buffer.add(obs=np.full(64, number), action=number, reward=0.0, terminated=False, truncated=False)
        number += 1

    def go_on():
        while not stop.wait(1e-4):  # lets go of the lock between two steps
            add()

    for _ in range(60):
        add()
    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        with feed(buffer, 16, 8, device="cpu") as batches:
            for _ in range(100):
                batch = next(batches)
                wanted = batch.start[:, None] + torch.arange(9)
                assert torch.equal(batch.obs, wanted[:, :, None].expand(-1, -1, 64))
                assert torch.equal(batch.action, wanted[:, :8])
    finally:
        stop.set()
        writer.join()


# --- errors --------------------------------------------------------------------------------------------


def test_an_error_comes_with_its_traceback_and_may_pass():
    """NotEnoughData of the thread reaches the consumer, and once there is enough the feed goes on."""
    buffer = rv.ReplayBuffer(frame_spec(), 60, seed=0)
    with feed(buffer, 4, 3, device="cpu") as batches:
        for _ in range(2):
            with pytest.raises(rv.NotEnoughData, match="add more steps") as caught:
                next(batches)
        functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert "sample" in functions  # the thread's frames, not only those of `next`
        assert batches.batches == 0
        write(buffer, 40, 0)
        while batches.batches == 0:  # the try that was under way meanwhile may have come too early
            try:
                batch = next(batches)
            except rv.NotEnoughData:
                continue
        assert batch.obs.shape == (4, 4, 3, 4, 4)


def test_batches_before_an_error_still_come():
    """The error takes the place of its own batch and of no other."""
    sampler = Refusing()
    with feed(frames(), 2, 2, device="cpu", sampler=sampler, prefetch=1) as batches:
        next(batches)
        sampler.error = KeyError("mine")
        told = [outcome(batches) for _ in range(4)]
        first = told.index("'mine'")
        assert first <= 2  # one batch that was ready, one under way
        assert told[:first] == ["a batch"] * first
        assert told[first:] == ["'mine'"] * (4 - first)
        sampler.error = None
        assert "a batch" in [outcome(batches) for _ in range(2)]  # one try may have begun before


def test_nothing_is_made_after_an_error_until_it_was_taken():
    """However far ahead a feed may run, one old error at most is left when there is enough data."""
    sampler = Refusing()
    sampler.error = KeyError("not yet")
    with feed(frames(), 2, 2, device="cpu", sampler=sampler, prefetch=8) as batches:
        assert {outcome(batches) for _ in range(3)} == {"'not yet'"}
        sampler.error = None
        assert [outcome(batches) for _ in range(6)].count("'not yet'") <= 1


def test_a_closed_buffer_is_told():
    """A buffer that is closed under the feed gives BufferClosed, again and again."""
    buffer = frames()
    with feed(buffer, 2, 2, device="cpu", prefetch=1) as batches:
        buffer.close()
        told = [outcome(batches) for _ in range(5)]
        assert all(
            "wanted an open buffer" in outcome for outcome in told[2:]
        )  # two may have been made before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "nowhere"}, "device: wanted one that torch can use"),
        ({"prefetch": 0}, "prefetch: wanted an integer of at least 1"),
        ({"boundary": "inward"}, "boundary: wanted one of"),
        ({"sampler": "uniform"}, "sampler: wanted"),
        ({"burn_in": -1}, "burn_in: wanted"),
        ({"length": 0}, "length: wanted"),
        ({"batch_size": 1.5}, "batch_size: wanted"),
        ({"buffer": []}, "buffer: wanted a ReplayBuffer"),
    ],
)
def test_bad_settings_are_refused_at_once(change, message):
    """A setting that cannot work is refused by `feed` itself, before there is a thread."""
    threads = threading.active_count()
    settings = {"buffer": frames(), "batch_size": 2, "length": 2, "device": "cpu", **change}
    with pytest.raises(rv.BadSetting, match=message):
        feed(**settings)
    assert threading.active_count() == threads


def test_a_dtype_that_torch_lacks_is_refused():
    """The field is named."""
    spec = rv.StepSpec(rv.Field((), "longdouble"), rv.Field((), "int64"))
    with pytest.raises(rv.BadSetting, match="field 'obs': wanted a dtype that torch has"):
        feed(rv.ReplayBuffer(spec, 10), 1, 1, device="cpu")


# --- endings -------------------------------------------------------------------------------------------


def test_close_ends_the_thread():
    """After `close` there is no thread, `next` says so, and closing again is fine."""
    batches = feed(frames(), 2, 2, device="cpu")
    next(batches)
    batches.close()
    assert not batches._thread.is_alive()
    batches.close()
    with pytest.raises(rv.BufferClosed, match="wanted an open feed"):
        next(batches)


def test_closing_wakes_a_consumer_that_waits():
    """A `next` that waits in another thread is told when the feed is closed."""
    sampler = Counting()
    sampler.gate.clear()
    batches = feed(frames(), 2, 2, device="cpu", sampler=sampler)
    told = []

    def consume():
        try:
            next(batches)
        except rv.BufferClosed as error:
            told.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert sampler.reached(1)
    batches._line.stop()
    consumer.join(SOON_S)
    assert len(told) == 1
    sampler.gate.set()
    batches.close()


@pytest.mark.parametrize("busy", [False, True])
def test_a_feed_that_nobody_holds_ends(busy):
    """Garbage collection ends the thread, whether it waits for room or is about to draw."""
    sampler = Counting()
    batches = feed(frames(), 2, 2, device="cpu", sampler=sampler, prefetch=1)
    assert sampler.reached(1)
    if busy:
        sampler.gate.clear()
        next(batches)
        assert sampler.reached(2)
    thread = batches._thread
    del batches
    gc.collect()
    sampler.gate.set()
    thread.join(SOON_S)
    assert not thread.is_alive()


def run_script(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", script],
        capture_output=True, text=True, timeout=SOON_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_interpreter_can_exit():
    """A feed that was never closed, at work on an endless supply, holds nothing up at the end."""
    script = "from reverie.feeds import Feed\nf = Feed(lambda: bytes(10**6), len, 3)\nprint(next(f))"
    assert run_script(script) == "1000000\n"


def test_a_forked_feed_says_so():
    """In a child process, where the thread is not, `next` raises where it would wait for ever."""
    script = """
import os
import threading
import reverie as rv
from reverie.feeds import Feed
gate = threading.Event()
feed = Feed(gate.wait, lambda made: made, 1)
if os.fork() == 0:
    try:
        next(feed)
    except rv.WrongProcess as error:
        print("make the feed after forking" in str(error), flush=True)
    os._exit(0)
os.wait()
gate.set()
"""
    assert run_script(script) == "True\n"

"""A rate limit lets adding and drawing wait for each other: sums, waits, errors, and what the file keeps of it."""

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest

import reverie as rv
from reverie.engine import RateCount
from reverie.engine.gate import nobody_else, waiting_for
from reverie.feeds import Feed, drawing
from support.buffers import scalar_spec


def limited(ratio=4, tolerance=16, min_size=10, wait_s=0.0, **settings) -> rv.ReplayBuffer:
    """A buffer with a limit; no wait is longer than one look."""
    limit = rv.RateLimit(ratio, tolerance, min_size, wait_s)
    return rv.ReplayBuffer(scalar_spec(), 1_200, seed=0, rate_limit=limit, **settings)


def add(buffer, count=1, stream=0) -> None:
    """Add steps one by one."""
    for _ in range(count):
        buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False, stream=stream)


def steps(count, *lanes) -> dict:
    """Arguments of `extend` for so many steps, or rows of lanes."""
    shape = (count, *lanes)
    return {"obs": np.zeros(shape, int), "action": np.zeros(shape, int), "reward": np.zeros(shape, np.float32),
            "terminated": np.zeros(shape, bool), "truncated": np.zeros(shape, bool)}  # fmt: skip


def in_thread(work) -> threading.Thread:
    """Let another thread do something."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def bystander():
    """A thread that neither adds nor draws, but might."""
    over = threading.Event()
    thread = in_thread(over.wait)
    yield
    over.set()
    thread.join()


@pytest.fixture
def alone(monkeypatch):
    """Threads of other tests, such as those of a pool, are not there."""
    others = set(threading.enumerate()) - {threading.current_thread()}
    everyone = threading.enumerate
    monkeypatch.setattr(
        threading, "enumerate", lambda: [thread for thread in everyone() if thread not in others]
    )


# --- the sums ------------------------------------------------------------------------------------------------------


def test_the_sums_by_hand():
    """Four drawn steps for each added one after the first ten, give or take sixteen."""
    count = RateCount(rv.RateLimit(4, 16, 10))
    assert (count.missing_inserts(8), count.missing_samples(10)) == (10, 0)
    count.inserted(10)
    assert (count.error, count.may_sample(16), count.missing_samples(4)) == (0, True, 0)
    count.inserted(4)
    assert (count.error, count.may_insert(1), count.missing_samples(1)) == (16, False, 4)
    count.sampled(16)
    count.sampled(8)
    assert (count.error, count.may_sample(8), count.may_sample(9), count.missing_inserts(16)) == (
        -8,
        True,
        False,
        2,
    )
    assert count.state() == {
        "samples_per_insert": 4,
        "tolerance": 16,
        "min_size": 10,
        "wait_s": 300,
        "inserts": 14,
        "samples": 24,
    }
    assert RateCount.from_state(count.state()).state() == count.state()


@pytest.mark.parametrize(("ratio", "tolerance"), [(0.1, 8), (1 / 3, 8.5), (7.3, 50), (512, 1024)])
def test_one_side_can_always_go_on_and_the_error_stays_inside(ratio, tolerance):
    """A plain twin with fractions agrees, for sizes of batches up to the largest that are let through."""
    rng = np.random.default_rng(0)
    limit = rv.RateLimit(ratio, tolerance, 5)
    count = RateCount(limit)
    most = int(Fraction(tolerance) / Fraction(ratio))
    for _ in range(2_000):
        batch, added = int(rng.integers(1, tolerance + 1)), int(rng.integers(1, most + 1))
        may_draw, may_add = count.may_sample(batch), count.may_insert(added)
        assert may_draw or may_add
        error = (count.inserts - 5) * Fraction(ratio) - count.samples
        assert may_draw == (count.inserts >= 5 and error - batch >= -tolerance)
        assert may_add == (count.inserts + added <= 5 or error + added * Fraction(ratio) <= tolerance)
        assert may_draw or count.missing_inserts(batch) > 0
        if may_draw and (not may_add or rng.random() < 0.5):
            count.sampled(batch)
        else:
            count.inserted(added)
        assert count.inserts < 5 or -tolerance <= count.error <= tolerance


def test_what_is_missing_is_enough_and_no_more():
    """After so many steps it goes on, and after one fewer it does not."""
    for inserts in range(12, 40, 3):
        for samples in range(0, 150, 7):
            count = RateCount(rv.RateLimit(2.5, 20, 12), inserts, samples)
            wait = count.missing_inserts(9)
            assert RateCount(count.limit, inserts + wait, samples).may_sample(9)
            assert not wait or not RateCount(count.limit, inserts + wait - 1, samples).may_sample(9)
            wait = count.missing_samples(3)
            assert RateCount(count.limit, inserts, samples + wait).may_insert(3)
            assert not wait or not RateCount(count.limit, inserts, samples + wait - 1).may_insert(3)


def test_it_says_what_it_waits_for():
    """In the words of the steps that are missing, or of the room there is."""
    limit = rv.RateLimit(0.5, 100, 120)
    assert str(RateCount(limit)) == "0.5 samples per insert ± 100, samples may go on after 120 more steps"
    assert str(RateCount(limit, 120, 100)).endswith("samples may go on after 2 more steps")
    assert str(RateCount(limit, 320, 0)).endswith("adding may go on after 1 more sample")
    assert str(RateCount(limit, 140, 5)).endswith("room for 105 samples and 190 steps")


@pytest.mark.parametrize(
    "wrong", [(0, 10), (-1, 10), (float("nan"), 10), ("4", 10), (4, 3), (4, 10, 0), (4, 10, 1, -1)]
)
def test_settings_that_cannot_be(wrong):
    """A tolerance that one step oversteps would hold up both sides at once."""
    with pytest.raises(rv.BadSetting, match="wanted"):
        rv.RateLimit(*wrong)
    with pytest.raises(rv.BadSetting, match="wanted a RateLimit"):
        rv.ReplayBuffer(scalar_spec(), 10, rate_limit=wrong)


# --- one thread ----------------------------------------------------------------------------------------------------


def test_one_thread_is_refused_and_never_waits(alone):
    """Whoever adds and draws in one thread is told at once, with the numbers, and nothing has changed."""
    buffer = limited(wait_s=1e6)
    with pytest.raises(rv.RateLimited, match="10 more to be added, got no other thread that adds"):
        buffer.sample(2, 4)
    add(buffer, 14)
    with pytest.raises(
        rv.RateLimited, match="4 more to be drawn, got no other thread that draws: 14 were added and 0 drawn"
    ):
        add(buffer)
    assert len(buffer) == 14
    for _ in range(4):
        buffer.sample(2, 4)
    with pytest.raises(
        rv.RateLimited, match=r"wanted to draw 8 steps, waited for 2 more to be added.*-16 of ±16 are owed"
    ):
        buffer.sample(2, 4)
    assert (buffer.rate.inserts, buffer.rate.samples, buffer.rate.error) == (14, 32, -16)


def test_one_thread_is_refused_beside_a_bystander(bystander):
    """Threads that have never added do not count once this one has."""
    buffer = limited(wait_s=1e6)
    add(buffer, 11)
    for _ in range(2):
        buffer.sample(2, 4)
    buffer.sample(1, 4)
    with pytest.raises(rv.RateLimited, match="no other thread that adds"):
        buffer.sample(2, 4)
    add(buffer, 8)
    with pytest.raises(rv.RateLimited, match="no other thread that draws"):
        add(buffer)


def test_a_wait_has_an_end(bystander):
    """A thread that might add, and does not, is waited for no longer than `wait_s`."""
    buffer = limited(wait_s=0.01)
    add(buffer, 10)
    buffer.sample(4, 4)
    with pytest.raises(
        rv.RateLimited, match=r"waited 0\.01 s for 2 more to be added, got none.*pass a larger wait_s"
    ):
        buffer.sample(2, 4)


def test_every_way_of_adding_and_drawing_counts():
    """Lanes, stretches, lanes of stretches and single steps; burn-in and failed calls do not."""
    buffer = limited(2, 100, 4, streams=2)
    one = {name: value[0] for name, value in steps(1, 2).items()}
    buffer.add_batch(**one)
    buffer.extend(**steps(5), stream=1)
    buffer.extend(**steps(3, 2), streams=[0, 1])
    assert buffer.rate.inserts == 13
    buffer.sample(3, 2, burn_in=2, stride=2)
    buffer.sample(3, 2, boundary="cross")
    buffer.sample_steps(7)
    with pytest.raises(rv.NotEnoughData):
        buffer.sample(1, 50)
    with pytest.raises(rv.SpecMismatch):
        buffer.extend(**{**steps(4), "obs": np.zeros(3, int)})
    assert buffer.rate.samples == 6 + 6 + 7
    assert buffer.rate.error == 9 * 2 - 19


def test_what_never_gets_through_is_refused():
    """It would wait for ever; prefilling is free up to `min_size`."""
    buffer = limited(4, 16, 50)
    buffer.extend(**steps(50))
    with pytest.raises(rv.BadSetting, match="at most 4 steps at once after the first 50, got 5"):
        buffer.extend(**steps(5))
    with pytest.raises(
        rv.BadSetting, match="a batch of at most 16 steps, the tolerance of the rate limit, got 18"
    ):
        buffer.sample(2, 9)
    fresh = limited(4, 16, 50)
    with pytest.raises(rv.BadSetting, match="at most 4 steps at once"):
        fresh.extend(**steps(55))
    fresh.extend(**steps(54))
    assert fresh.rate.error == 16


def test_a_limit_begins_and_ends_at_any_time():
    """Steps that are there count as prefilling, and no further."""
    buffer = rv.ReplayBuffer(scalar_spec(), 1_000, seed=0)
    assert buffer.rate is None
    add(buffer, 300)
    buffer.limit_rate(rv.RateLimit(4, 16, 10, 0.0))
    assert (buffer.rate.inserts, buffer.rate.error) == (10, 0)
    add(buffer, 4)
    with pytest.raises(rv.RateLimited):
        add(buffer)
    buffer.limit_rate(None)
    add(buffer)
    assert "samples" not in repr(buffer)
    with pytest.raises(rv.BadSetting, match="wanted a RateLimit, got int"):
        buffer.limit_rate(4)


def test_a_union_refuses_it():
    """It would draw from the part without being counted there, whether the limit came before or after."""
    plain, other = rv.ReplayBuffer(scalar_spec(), 10), limited()
    add(plain, 5)
    with pytest.raises(rv.BadSetting, match="without a rate limit"):
        rv.Union([plain, other])
    union = rv.Union([plain])
    plain.limit_rate(other.rate.limit)
    with pytest.raises(rv.BadSetting, match="without a rate limit"):
        union.sample(1, 1)


# --- several threads -----------------------------------------------------------------------------------------------


def test_two_threads_wait_for_each_other():
    """The one adds 40 steps, the other draws 20 batches; neither could have gone ahead alone."""
    buffer = limited(wait_s=60.0)
    errors = []

    def check(error):
        if not -16 <= error <= 16:
            errors.append(error)

    def learn():
        for _ in range(15):
            buffer.sample(2, 4)
            check(buffer.rate.error)

    learner = in_thread(learn)
    for _ in range(44):
        add(buffer)
        if buffer.rate.inserts >= 10:
            check(buffer.rate.error)
    learner.join(60)
    assert not learner.is_alive()
    assert not errors
    assert (buffer.rate.inserts, buffer.rate.samples) == (44, 120)


@pytest.mark.parametrize("end", ["close", "limit"])
def test_a_wait_ends_with_the_buffer_or_the_limit(end):
    """Whoever waits is told, or goes on."""
    buffer = limited(wait_s=60.0)
    add(buffer, 5)
    ended = []

    def learn():
        try:
            ended.append(buffer.sample(1, 1))
        except rv.BufferClosed as error:
            ended.append(error)

    learner = in_thread(learn)
    if end == "close":
        buffer.close()
    else:
        buffer.limit_rate(None)
    learner.join(60)
    assert isinstance(ended[0], rv.BufferClosed if end == "close" else rv.SequenceBatch)


def test_who_is_stuck(alone):
    """A thread that waits for this one does not help, nor do threads that wait for each other, nor ended ones."""
    me, over = threading.current_thread(), threading.Event()
    awaited, ready = [], threading.Barrier(3)

    def wait():
        with waiting_for(awaited):
            ready.wait()
            over.wait()

    one, two = in_thread(wait), in_thread(wait)
    ready.wait()
    assert nobody_else([me])
    assert not nobody_else([me, one])
    awaited[:] = [me]
    assert nobody_else([one])
    assert nobody_else([one, two, me])
    awaited[:] = [one, two]
    assert nobody_else([one])
    over.set()
    one.join()
    two.join()
    assert nobody_else([])


def test_a_feed_counts_what_it_draws_ahead():
    """And a program that adds and takes from the feed in one thread is told that it waits for itself."""
    buffer = limited(4, 16, 10, wait_s=1e6)
    add(buffer, 10)
    with Feed(drawing(buffer, 2, 4, "inside", None, 0, None, 1)[1], lambda batch: batch, prefetch=2) as feed:
        add(buffer)
        assert len(next(feed)) == 2
        # One more was drawn ahead; the third would overstep the tolerance.
        assert len(next(feed)) == 2
        with pytest.raises(rv.RateLimited, match="no other thread that adds"):
            next(feed)
        assert buffer.rate.samples == 16
        while buffer.rate.error < 16:
            add(buffer)
        next(feed)


def test_a_feed_ends_while_it_waits(bystander):
    """Closing it does not wait as long as its thread would."""
    buffer = limited(wait_s=1e6)
    feed = Feed(drawing(buffer, 2, 4, "inside", None, 0, None, 1)[1], lambda batch: batch, prefetch=2)
    closing = in_thread(feed.close)
    closing.join(60)
    assert not closing.is_alive()


def test_a_feed_of_nothing_is_refused(alone):
    """Whoever asks for a batch before anything was added, with nobody else to add, waits for himself."""
    buffer = limited(wait_s=1e6)
    with (
        Feed(drawing(buffer, 2, 4, "inside", None, 0, None, 1)[1], lambda batch: batch, prefetch=2) as feed,
        pytest.raises(rv.RateLimited, match="no other thread that adds"),
    ):
        next(feed)


def test_a_full_feed_is_no_one_to_wait_for():
    """The one thread adds too much while the feed waits for it to take a batch."""
    buffer = limited(4, 16, 10, wait_s=1e6)
    add(buffer, 10)
    with Feed(drawing(buffer, 2, 4, "inside", None, 0, None, 1)[1], lambda batch: batch, prefetch=1) as feed:
        next(feed)
        with pytest.raises(rv.RateLimited, match="no other thread that draws"):
            add(buffer, 100)


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["step", "chunk"])
def test_the_sums_go_on_after_closing(tmp_path, durability):
    """With the limit, whatever the ring has evicted; a copy has them, too, and so has a file of another size."""
    path = tmp_path / "a.replay"
    with limited(path=path, durability=durability, streams=2) as buffer:
        add(buffer, 8)
        add(buffer, 3, stream=1)
        buffer.sample(2, 4)
        buffer.sample(2, 4)
        add(buffer, 3)
        before = buffer.rate.state()
        buffer.save_as(tmp_path / "b.replay")
    for name, size in [("a", {}), ("b", {}), ("a", {"capacity": 8}), ("a", {"streams": 4})]:
        with rv.open(tmp_path / f"{name}.replay", **size) as opened:
            assert opened.rate.state() == before
            assert "room for 16 samples and 4 steps" in repr(opened)


def test_a_killed_process_loses_the_draws_since_its_last_step(tmp_path):
    """Two batches before the last step are in the file, and one after it is not."""
    path = tmp_path / "a.replay"
    program = """
import os, signal, sys
import reverie as rv
spec = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
buffer = rv.ReplayBuffer(spec, 100, path=sys.argv[1], rate_limit=rv.RateLimit(4, 16, 10))
for step in range(13):
    if step == 12:
        buffer.sample(2, 4)
        buffer.sample(2, 4)
    buffer.add(obs=0, action=0, reward=0.0, terminated=False, truncated=False)
buffer.sample(1, 4)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert ended.returncode == -signal.SIGKILL
    with rv.open(path) as buffer:
        assert (buffer.rate.inserts, buffer.rate.samples, buffer.rate.limit.tolerance) == (13, 16, 16)


def test_readers_draw_without_it(tmp_path):
    """What they draw changes nothing in the file, and they cannot set it."""
    path = tmp_path / "a.replay"
    with limited(path=path) as buffer:
        add(buffer, 8)
        with rv.open(path, mode="r") as reader:
            assert len(reader.sample(9, 4)) == 9
            assert reader.rate is None
            with pytest.raises(rv.FileError, match="open for reading"):
                reader.limit_rate(None)
        assert buffer.rate.samples == 0


@pytest.mark.parametrize(
    "wrong", [{"samples": -1}, {"before": "0"}, {"inserts": 2.0}, {"tolerance": 0}, {"wait_s": None}, "none"]
)
def test_a_damaged_limit_is_refused(tmp_path, wrong):
    """Nothing that a file says is believed."""
    path = tmp_path / "a.replay"
    with limited(path=path) as buffer:
        add(buffer, 3)
        note = buffer.engine.memories.notes["rate_limit"]
        buffer.engine.memories.note(rate_limit={**note, **wrong} if isinstance(wrong, dict) else wrong)
    with pytest.raises(rv.FileError, match="wanted the state of a rate limit"):
        rv.open(path)


def test_an_interrupt_counts_the_step_that_was_stored():
    """The index counts what was added: whatever comes after the step cannot make the sums differ from it."""
    buffer = limited()

    def interrupt():
        raise KeyboardInterrupt

    gate = buffer.engine.gate
    gate.has_changed = interrupt
    with pytest.raises(KeyboardInterrupt):
        add(buffer)
    del gate.has_changed
    add(buffer)
    assert buffer.rate.inserts == len(buffer) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_draws_without_it():
    """Its copy of the buffer is a reader's; it holds up nobody and is held up by nobody."""
    buffer = limited()
    add(buffer, 12)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if len(buffer.sample(9, 4)) == 9 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert buffer.rate.samples == 0


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.3, 8, 64])
def test_the_ratio_holds_at_every_instant(ratio):
    """Three threads add and two draw as fast as they can; another looks whether the error is inside."""
    buffer = limited(ratio, 512, 100, wait_s=60.0, streams=3)
    count = int(100 + 150_000 / max(ratio, 1)) // 3 * 3
    wrong, over = [], threading.Event()

    def act(stream):
        add(buffer, count // 3, stream)

    def learn(batch_size):
        try:
            while True:
                buffer.sample(batch_size, 8)
        except (rv.BufferClosed, rv.RateLimited):
            pass

    def look():
        looks = 0
        while not over.is_set() or not looks:
            rate = buffer.rate
            looks += rate.inserts >= 100
            if rate.inserts >= 100 and not -512 <= rate.error <= 512:
                wrong.append(rate)

    actors = [in_thread(lambda stream=stream: act(stream)) for stream in range(3)]
    learners = [in_thread(lambda size=size: learn(size)) for size in (7, 64)]
    watcher = in_thread(look)
    for thread in actors:
        thread.join(300)
        assert not thread.is_alive()
    over.set()
    watcher.join(60)
    buffer.close()
    for thread in learners:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    assert buffer.rate.inserts == count
    assert abs(buffer.rate.samples - (count - 100) * ratio) <= 512

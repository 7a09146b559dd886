"""The rate limit of a sharded buffer: writers and learners wait for each other, and nobody waits for himself."""

import os
import time

import pytest
from tests.with_ray.conftest import step

import reverie as rv
from reverie.errors import RateLimited
from reverie.ray.rate import Limiter

ray = pytest.importorskip("ray")
from reverie.ray import attach  # noqa: E402

# Ray has warnings of its own.
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("ignore")]

LIMIT = rv.RateLimit(4.0, tolerance=256, min_size=100, wait_s=30.0)


@ray.remote(num_cpus=0)
def write(writer, stream, steps):
    with writer:
        for number in range(steps):
            writer.add(**step(stream, number, number % 23 == 22))


def test_writers_and_a_learner_keep_the_ratio(make):
    """Whatever side is faster waits: the error is within the tolerance whenever it is looked at."""
    buffer = make(shards=2, rate_limit=LIMIT)
    writers = [write.remote(buffer.writer(stream, batch=16), stream, 1000) for stream in range(2)]
    for _ in range((2000 - LIMIT.min_size) * 4 // 64):
        assert len(buffer.sample(16, 4)) == 16
        assert abs(buffer.rate.error) <= LIMIT.tolerance or buffer.rate.inserts <= LIMIT.min_size
    ray.get(writers)
    assert (buffer.rate.inserts, buffer.rate.samples) == (2000, 1900 * 4 // 64 * 64)
    assert len(buffer) == 2000


def write_on(writer):
    for number in range(128, 1000):
        writer.add(**step(0, number))


def draw_on(buffer):
    for _ in range(100):
        buffer.sample(16, 4)


def test_one_thread_that_does_both_is_told_at_once(make):
    """Instead of a wait for itself; what could never get through is refused."""
    buffer = make(shards=1, rate_limit=rv.RateLimit(4.0, tolerance=256, min_size=100, wait_s=600.0))
    writer = buffer.writer(0, batch=32)
    for number in range(128):
        writer.add(**step(0, number))
    buffer.sample(16, 4)
    with pytest.raises(
        RateLimited, match=r"wanted to add 32 steps, waited for .* no other thread that draws"
    ):
        write_on(writer)
    for _ in range(6):
        buffer.sample(16, 4)
    writer.flush()
    with pytest.raises(RateLimited, match=r"wanted to draw 64 steps, .* no other thread that adds"):
        draw_on(buffer)
    with pytest.raises(rv.BadSetting, match="wanted a batch of at most 256 steps"):
        buffer.sample(100, 4)


def test_a_wait_has_an_end_and_says_for_what(make):
    """A learner before anybody has added, under a limit that waits for a second."""
    buffer = make(shards=1, rate_limit=rv.RateLimit(1.0, tolerance=64, min_size=10, wait_s=0.5))
    with pytest.raises(
        RateLimited, match=r"waited 0.5 s for 10 more to be added, got none: 0 were added and 0 drawn"
    ):
        buffer.sample(4, 4)


def test_a_limiter_that_is_killed_goes_on_where_it_was(make):
    """Its note has the sums; whoever attaches is held to the same limit."""
    buffer = make(shards=1, rate_limit=LIMIT, name="limited")
    ray.get(write.remote(buffer.writer(0, batch=10), 0, 120))
    buffer.sample(16, 4)
    assert (buffer.rate.inserts, buffer.rate.samples) == (120, 64)
    ray.kill(ray.get_actor("limited/limit", namespace="reverie"), no_restart=False)
    found = attach("limited")
    found.sample(16, 4)
    assert (found.rate.inserts, found.rate.samples, found.rate.limit) == (120, 128, LIMIT)
    assert str(found.rate).startswith("4 samples per insert ± 256, room for")


def test_a_ticket_counts_once(tmp_path):
    """Calls of Ray may come twice. Sums of another limit are not gone on with."""
    limiter = Limiter(LIMIT, str(tmp_path / "note.json"))
    who = ("here", 1, 2)
    for _ in range(2):
        assert limiter.insert(50, "a", who).missing == 0
    assert limiter.state()["inserts"] == 50
    assert limiter.draw(64, "b", who).missing == 50
    assert Limiter(LIMIT, str(tmp_path / "note.json")).state() == limiter.state()
    assert Limiter(rv.RateLimit(1.0, 9), str(tmp_path / "note.json")).state()["inserts"] == 0
    assert os.listdir(tmp_path) == ["note.json"]


@pytest.mark.slow
def test_ten_minutes_keep_the_ratio(make):
    """Two writers and a learner that are stopped by nothing but the limit: at every look it is within its tolerance."""
    buffer = make(shards=2, rate_limit=LIMIT)
    writers = [write.remote(buffer.writer(stream, batch=16), stream, 10**9) for stream in range(2)]
    until, looks = time.monotonic() + 600, 0
    while time.monotonic() < until:
        buffer.sample(16, 4)
        rate = buffer.rate
        assert abs(rate.error) <= LIMIT.tolerance or rate.inserts <= LIMIT.min_size
        looks += 1
    for writer in writers:
        ray.cancel(writer, force=True)
    assert looks > 1000
    assert abs(rate.samples / (rate.inserts - LIMIT.min_size) - 4.0) < 0.05

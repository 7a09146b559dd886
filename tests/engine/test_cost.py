"""A call's cost follows what it is asked for, not what the buffer holds. Calls and bytes are counted, not seconds."""

import gc
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import reverie as rv
from reverie.samplers import Drawn

SMALL, LARGE = 1_000, 32_000  # steps of the two buffers that are compared
MOST = 1.5  # times the cost in the small buffer: a sum tree of more steps is a level or two deeper
BATCH, LENGTH, EPISODE = 16, 8, 50
DRAWS = 15  # chance decides how many proposals a draw needs, so the medians of several draws are compared

SAMPLERS = {
    "Uniform": rv.Uniform,
    "EpisodeUniform": rv.EpisodeUniform,
    "EpisodeUniform(weights)": lambda: rv.EpisodeUniform((0.1, 0.1, 0.1, 0.7)),
    "Recent(newest)": lambda: rv.Recent(500),
    "Recent(half_life)": lambda: rv.Recent(half_life=500),
    "Prioritized": rv.Prioritized,
    "VisitBalanced(episode)": rv.VisitBalanced,
    "VisitBalanced(step)": lambda: rv.VisitBalanced(by="step"),
    "Fresh": rv.Fresh,
    "Shuffled": rv.Shuffled,
    "Mixture": lambda: rv.Mixture([(rv.Uniform(), 0.5), (rv.Recent(500), 0.5)]),
}


def step(number):
    """The arguments of `add` for one step; every 50th ends an episode."""
    ends = number % EPISODE == EPISODE - 1
    return {"obs": number, "action": 0, "reward": 0.0, "terminated": ends, "truncated": False}


def full(steps):
    """Return a full buffer, whose oldest steps are evicted already."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64")), steps, seed=0)
    for number in range(steps + 70):
        buffer.add(**step(number))
    return buffer


@pytest.fixture(scope="module")
def buffers():
    """A small buffer, and one that holds 32 times as much."""
    return full(SMALL), full(LARGE)


def cost(task):
    """Return how many functions a task calls, Python's and C's, and how many bytes it holds at most."""
    calls = 0

    def hook(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(hook)
    try:
        task()
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls, peak


def costs(task):
    """Return the median cost of several runs of a task."""
    found = [cost(task) for _ in range(DRAWS)]
    return [median(column) for column in zip(*found, strict=True)]


def drawing(buffer, sampler):
    """Return a task: add a step, draw a batch, and give priorities back if the sampler keeps some."""

    def draw():
        buffer.add(**step(7))
        batch = buffer.sample(BATCH, LENGTH, sampler=sampler)
        if isinstance(sampler, rv.Prioritized):
            buffer.update_priorities(batch, td_errors=np.ones(BATCH))

    if isinstance(
        sampler, rv.Fresh
    ):  # first all that is there is drawn once; then only new steps are new to it
        for _ in range(2 * len(buffer) // (BATCH * LENGTH)):
            draw()
    draw()
    return draw


def assert_flat(small, large):
    """Two tasks cost nearly the same, and the one in the large buffer makes no array as long as that buffer."""
    (calls, peak), (more_calls, higher_peak) = costs(small), costs(large)
    assert more_calls <= MOST * calls
    assert higher_peak <= MOST * peak
    assert higher_peak < LARGE, "a byte for each step"


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_costs_what_its_batch_costs(name, buffers):
    """In 32 times as many steps, a draw and its update make hardly more calls and no array of all steps."""
    assert_flat(*(drawing(buffer, SAMPLERS[name]()) for buffer in buffers))


@pytest.mark.parametrize(
    "call",
    [
        lambda buffer: buffer.add(**step(7)),
        lambda buffer: buffer.cut(),
        lambda buffer: buffer.count_windows(LENGTH),
        lambda buffer: buffer.sample_steps(BATCH),
        lambda buffer: len(buffer),
        lambda buffer: buffer.nbytes,
        lambda buffer: buffer.episodes[-1],
        lambda buffer: buffer.episodes[0],
        lambda buffer: buffer.engine.episode_place(-1),  # reading it takes as long as it is
        lambda buffer: buffer.annotate(episode=buffer.engine.index.next_order - 10, mark=1),
        lambda buffer: (
            buffer.annotate(episode=buffer.engine.index.next_order - 10, mark=1),
            buffer.sample(BATCH, LENGTH),
        ),
        lambda buffer: buffer.sample(BATCH, LENGTH, stride=3, fields=("reward",)),
    ],
    ids=[
        "add",
        "cut",
        "count_windows",
        "sample_steps",
        "len",
        "nbytes",
        "newest row",
        "oldest row",
        "newest episode",
        "annotate",
        "annotate and sample",
        "stride and fields",
    ],
)
def test_other_calls_cost_the_same_in_a_large_buffer(call, buffers):
    """Adding, evicting and counting go through no list of what is there."""
    assert_flat(*((lambda buffer=buffer: call(buffer)) for buffer in buffers))


class Listing(rv.Sampler):
    """A sampler that goes through all anchors for each draw."""

    def draw(self, anchors, rng, count):
        return Drawn(*(column[:count] for column in anchors.at_rank(np.arange(anchors.count()))))


def test_a_cost_that_grows_is_noticed(buffers):
    """The tests above would fail for a sampler that lists all anchors."""
    with pytest.raises(AssertionError):
        assert_flat(*(drawing(buffer, Listing()) for buffer in buffers))


HOLD = """
import mmap
import numpy as np
import reverie as rv

STEPS, EPISODE = 2_000, 50
spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
buffer = rv.ReplayBuffer(spec, STEPS, seed=0)

def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * mmap.PAGESIZE

def add(number):
    frame, ends = np.full((3, 64, 64), number % 256, np.uint8), number % EPISODE == EPISODE - 1
    buffer.add(obs=frame, action=0, reward=0.0, terminated=ends, truncated=False, final_obs=frame if ends else None)

add(0)
before = resident()
for number in range(1, 3 * STEPS):
    add(number)
print((resident() - before) / (STEPS + STEPS / EPISODE) / 12_288)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's count of resident pages")
def test_a_frame_is_held_once():
    """A full ring of frames takes from the system one frame a step and one for each episode's end, and hardly more."""
    run = subprocess.run([sys.executable, "-c", HOLD], check=True, capture_output=True, text=True)
    assert 0.95 < float(run.stdout) < 1.25


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("kind", ["memory", "budget", "file", "r", "r+"])
def test_memory_is_given_back_with_the_last_reference(kind, closes, tmp_path):
    """Not when the garbage collector comes: whoever opens a file again would hold all its steps twice until then."""
    path, spec = tmp_path / "a.replay", rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"))
    settings = {"budget": {"residency": "packed", "max_bytes": 10**7}, "memory": {}}.get(kind, {"path": path})
    gc.collect()
    gc.disable()
    try:
        buffer = rv.ReplayBuffer(spec, SMALL, **settings)
        for number in range(200):
            buffer.add(**step(number))
        if kind in ("r", "r+"):
            buffer.close()
            buffer = rv.open(path, mode=kind)
        buffer.sample(4, 4)
        engine, index = weakref.ref(buffer.engine), weakref.ref(buffer.engine.index)
        if closes:
            buffer.close()
        del buffer
        assert (engine(), index()) == (None, None)
    finally:
        gc.enable()

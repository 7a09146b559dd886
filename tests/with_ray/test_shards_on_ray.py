"""Shards that are actors of Ray: what is drawn, what survives killed processes, and what is refused."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.with_ray.conftest import step

import reverie as rv
from reverie.errors import BadSetting, NoAnswer, NotEnoughData, SpecMismatch, WrongProcess
from reverie.file import verdict_on

ray = pytest.importorskip("ray")
from reverie.ray import attach  # noqa: E402

# Ray has warnings of its own.
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster"), pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[2] / "docs/ray.md"
LENGTH = 5


class Twin:
    """What was written: for each stream the lengths of its episodes, in order."""

    def __init__(self, buffer):
        self.buffer, self.episodes = buffer, [[] for _ in range(buffer.streams)]
        self.writers = [buffer.writer(stream, batch=50) for stream in range(buffer.streams)]

    def grow(self, stream, *lengths):
        for length in lengths:
            first = sum(self.episodes[stream])
            for number in range(first, first + length):
                self.writers[stream].add(**step(stream, number, number == first + length - 1))
            self.episodes[stream].append(length)
        self.writers[stream].flush()

    def anchors(self):
        """Return the anchors of windows inside episodes, an episode each."""
        found = []
        for stream, lengths in enumerate(self.episodes):
            ends = np.cumsum(lengths).tolist()
            for length, end in zip(lengths, ends, strict=True):
                found.append([(stream, first) for first in range(end - length, end - LENGTH + 1)])
        return found

    def heads(self):
        return [sum(lengths) for lengths in self.episodes]


def alike(twin):
    return {one: 1.0 for episode in twin.anchors() for one in episode}


def by_episode(twin):
    return {one: 1.0 / len(episode) for episode in twin.anchors() for one in episode}


def newest(twin):
    return {one: 1.0 for one in alike(twin) if twin.heads()[one[0]] - one[1] <= 50}


def halving(twin):
    return {one: 0.5 ** ((twin.heads()[one[0]] - 1 - one[1]) / 40) for one in alike(twin)}


def half_and_half(twin):
    first, second = shares(alike(twin)), shares(by_episode(twin))
    return {one: first[one] + second[one] for one in first}


def shares(weights):
    total = sum(weights.values())
    return {one: weight / total for one, weight in weights.items()}


SAMPLERS = {
    "Uniform": (rv.Uniform, alike),
    "EpisodeUniform": (rv.EpisodeUniform, by_episode),
    "Prioritized": (rv.Prioritized, alike),  # all priorities are equal at first
    "Recent(200)": (lambda: rv.Recent(200), newest),
    "Recent(half_life)": (lambda: rv.Recent(half_life=40), halving),
    "Mixture": (lambda: rv.Mixture([(rv.Uniform(), 0.5), (rv.EpisodeUniform(), 0.5)]), half_and_half),
}


def four(make, **settings):
    """Return shards of 10, 400, 3 and 87 windows, and their twin."""
    twin = Twin(make(shards=4, **settings))
    for stream, lengths in enumerate(([14], [54] * 8, [7], [33] * 3)):
        twin.grow(stream, *lengths)
    return twin


@pytest.mark.parametrize("rounds", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_draws_have_the_distribution_of_the_whole_while_shards_grow(make, rounds):
    """Every sampler, 2,000 draws a round, two shards written to between draws: p > 0.001; a wrong one is noticed."""
    twin = four(make)
    buffer = twin.buffer
    assert buffer.count_windows(LENGTH) == 500
    assert len(buffer) == sum(twin.heads())
    samplers = {name: make_one() for name, (make_one, _) in SAMPLERS.items()}
    found = {name: Counter() for name in SAMPLERS}
    expected = {name: Counter() for name in SAMPLERS}
    for _ in range(rounds):
        for name, (_, weigh) in SAMPLERS.items():
            for one, share in shares(weigh(twin)).items():
                expected[name][one] += 2000 * share
            batch = buffer.sample(2000, LENGTH, sampler=samplers[name])
            assert (batch.obs[:, :LENGTH, 0] == batch.stream[:, None]).all()
            assert (batch.obs[:, :LENGTH, 1] == batch.anchor[:, None] + np.arange(LENGTH)).all()
            found[name].update(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True))
        twin.grow(1, 9)
        twin.grow(3, 6)
    p = {name: p_of(found[name], expected[name]) for name in SAMPLERS}
    assert min(p.values()) > 1e-3, p
    assert p_of(found["Uniform"], expected["EpisodeUniform"]) < 1e-9


@pytest.mark.parametrize("batches", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_shards_at_rest_keep_their_share_while_writers_write(make, batches):
    """Windows of shards at rest stay equally likely, sampler by sampler, while threads add to two others."""
    twin = four(make, capacity=2000)  # shards that are written to are full soon: the share of the rest stays
    buffer, done, failed = twin.buffer, threading.Event(), []

    def write(stream):
        try:
            while not done.is_set():
                twin.grow(stream, 9)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(stream,)) for stream in (1, 3)]
    for thread in threads:
        thread.start()
    found = {name: Counter() for name in ("Uniform", "EpisodeUniform", "Prioritized")}
    try:
        samplers = {name: SAMPLERS[name][0]() for name in found}
        for _ in range(batches):
            for name, sampler in samplers.items():
                batch = buffer.sample(500, LENGTH, sampler=sampler)
                assert (batch.obs[:, :LENGTH, 1] == batch.anchor[:, None] + np.arange(LENGTH)).all()
                found[name].update(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True))
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not failed
    for name, counts in found.items():
        resting = {one: share for one, share in SAMPLERS[name][1](twin).items() if one[0] in (0, 2)}
        got = Counter({one: counts[one] for one in resting})
        assert p_of(got, {one: got.total() * share for one, share in shares(resting).items()}) > 1e-3, name


def p_of(found, expected):
    """The chi-square p-value; cells of which fewer than 5 are expected are pooled."""
    assert found.keys() <= expected.keys()
    rare = [one for one, count in expected.items() if count < 5]
    cells = [(found[one], count) for one, count in expected.items() if count >= 5]
    cells.append((sum(found[one] for one in rare) + 1e-9, sum(expected[one] for one in rare) + 1e-9))
    got, wanted = np.array(cells, float).T
    return float(stats.chisquare(got, wanted * got.sum() / wanted.sum()).pvalue)


def test_an_epoch_shows_every_window_of_all_shards_once(make):
    """Shuffled, over two epochs."""
    twin = four(make)
    sampler = rv.Shuffled()
    for _ in range(2):
        batches = [twin.buffer.sample(100, LENGTH, sampler=sampler) for _ in range(5)]
        drawn = [
            one for batch in batches for one in zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)
        ]
        assert sorted(drawn) == sorted(alike(twin))


def test_what_is_given_back_reaches_the_shard_that_owns_it(make):
    """Priorities shift the draws; new values of extras are read again; settings of the sampler are followed."""
    twin = Twin(make(shards=2))
    twin.grow(0, 30)
    twin.grow(1, 30)
    sampler = rv.Prioritized(alpha=1.0, beta=1.0)
    for _ in range(8):
        batch = twin.buffer.sample(64, LENGTH, sampler=sampler)
        twin.buffer.update_priorities(batch, np.where((batch.stream == 1) & (batch.anchor == 7), 1000.0, 1.0))
        twin.buffer.write_back(batch, value=np.float32(10 * batch.stream[:, None] + batch.step_ids()))
    batch = twin.buffer.sample(400, LENGTH, sampler=sampler)
    hot = (batch.stream == 1) & (batch.anchor == 7)
    assert hot.mean() > 0.8
    assert (batch.extras["value"][hot][:, :LENGTH] == 10 + np.arange(7, 12)).all()
    assert np.isclose(batch.weight[hot].min() * 1000, batch.weight[~hot].max(), rtol=0.05)
    sampler.beta = 0.0
    assert (twin.buffer.sample(50, LENGTH, sampler=sampler).weight == 1).all()
    assert batch.obs.flags.writeable


def test_episodes_and_nothing_to_draw(make):
    """Streams are numbered through; an empty buffer says what it lacks."""
    twin = Twin(make(shards=2, streams_per_shard=2))
    with pytest.raises(NotEnoughData, match="add more steps"):
        twin.buffer.sample(1, LENGTH)
    twin.grow(3, 6, 7)
    twin.grow(0, 8)
    assert twin.buffer.episodes["stream"].tolist() == [0, 3, 3]
    assert [len(one.action) for one in twin.buffer.read_episodes()] == [8, 6, 7]
    assert twin.buffer.episode(-1).stream == 3
    assert set(twin.buffer.sample(50, LENGTH).stream.tolist()) == {0, 3}
    assert [one["steps"] for one in twin.buffer.inspect()] == [8, 13]


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_killed_shards_lose_nothing_that_was_acknowledged(make, residency, durability):
    """Four writers add, a learner draws, shards are killed: every step is there once, and the files are whole."""
    survive(make, residency, durability, kills=2, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_sixty_killed_shards_lose_nothing_that_was_acknowledged(make, residency, durability):
    """The same, ten kills each at instants of a random time after the last one."""
    survive(make, residency, durability, kills=10, seed=6)


def survive(make, residency, durability, kills, seed):
    """Kill shards while four writers add and a learner draws; then look for every step that was added."""
    buffer = make(1_600_000, shards=2, streams_per_shard=2, residency=residency, durability=durability)
    done, counts, failed = threading.Event(), [0] * 4, []

    def write(stream):
        try:
            with buffer.writer(stream, batch=7) as writer:
                while not done.is_set():
                    writer.add(**step(stream, counts[stream], counts[stream] % 23 == 22))
                    counts[stream] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(stream,)) for stream in range(4)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(seed)
    try:
        while buffer.count_windows(LENGTH) < 100:
            pass
        for _ in range(kills):
            process = buffer.inspect()[int(rng.integers(2))]["process"]
            done.wait(rng.exponential(0.05))  # any instant will do
            os.kill(process, signal.SIGKILL)
            for _ in range(int(rng.integers(1, 6))):
                batch = buffer.sample(32, LENGTH, boundary="cross")
                assert (batch.obs[:, :LENGTH, 0] == batch.stream[:, None])[batch.mask].all()
    finally:
        done.set()
        for thread in threads:
            thread.join(120)
    assert not failed
    paths = [one["path"] for one in buffer.inspect()]
    buffer.stop()
    for shard, path in enumerate(paths):
        assert verdict_on(path).findings == []
        with rv.open(path, mode="r") as file:
            for stream in range(2):
                steps = [
                    n
                    for one in file.read_episodes()
                    if one.stream == stream
                    for n in one.obs[: len(one.action), 1]
                ]
                assert steps == list(range(counts[2 * shard + stream]))


def test_a_killed_writer_leaves_what_it_flushed(make):
    """Its stream is cut, and goes to a writer that takes it over; a writer that was used does not travel."""
    buffer = make(shards=2)

    @ray.remote(max_retries=0)
    def write(writer):
        for number in range(30):
            writer.add(**step(1, number))
            if number == 19:
                writer.flush()
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(write.remote(buffer.writer(1)))
    with pytest.raises(BadSetting, match="another writer has"):
        buffer.writer(1).claim()
    with buffer.writer(1, take_over=True) as writer:
        assert writer.claim() == 20
        for number in range(20, 30):
            writer.add(**step(1, number))
        with pytest.raises(WrongProcess, match="make one with writer"):
            pickle.dumps(writer)
    assert buffer.episodes["length"].tolist() == [20, 10]
    assert buffer.writer(1).claim() == 30


def test_a_stopped_shard_is_named_and_waited_for(make):
    """SIGSTOP: draws and flushes end with the deadline; after SIGCONT nothing is lost, and nothing is there twice."""
    buffer = make(shards=2, wait_s=1.5)
    twin = Twin(buffer)
    twin.grow(0, 20)
    twin.grow(1, 20)
    process = buffer.inspect()[1]["process"]
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(NoAnswer, match=r"shard 1: wanted an answer within 1.5 seconds"):
            buffer.sample(8, LENGTH)
        for number in range(20, 40):
            twin.writers[1].add(**step(1, number))
        with pytest.raises(NoAnswer, match="shard 1"):
            twin.writers[1].flush()
    finally:
        os.kill(process, signal.SIGCONT)
    twin.writers[1].flush()
    assert buffer.inspect()[1]["steps"] == 40
    assert len(buffer.sample(8, LENGTH)) == 8


def test_draws_go_on_with_the_others(make):
    """Policy "others": without a shard that stands still or died, exactly over the rest; with it when it is back."""
    buffer = make(shards=2, wait_s=1.0, policy="others")
    twin = Twin(buffer)
    twin.grow(0, 14, 8)
    twin.grow(1, 30)
    sampler = rv.Prioritized(alpha=1.0)
    batch = buffer.sample(64, LENGTH, sampler=sampler)
    assert set(batch.stream.tolist()) == {0, 1}
    assert batch.missing == buffer.missing == ()
    process = buffer.inspect()[1]["process"]
    os.kill(process, signal.SIGSTOP)
    try:
        batch = buffer.sample(3000, LENGTH)
        assert batch.missing == buffer.missing == (1,)
        assert pickle.loads(pickle.dumps(batch)).missing == (1,)
        expected = shares({one: 1.0 for one in alike(twin) if one[0] == 0})
        found = Counter(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True))
        assert p_of(found, {one: 3000 * share for one, share in expected.items()}) > 1e-3
        batch = buffer.sample(8, LENGTH, sampler=sampler)
        buffer.update_priorities(batch, np.ones(8))
        assert set(buffer.sample(40, LENGTH, sampler=rv.Shuffled()).stream.tolist()) == {0}
        with pytest.raises(NoAnswer, match="shard 1"):
            len(buffer)
    finally:
        os.kill(process, signal.SIGCONT)
    returned(buffer)
    os.kill(process, signal.SIGKILL)
    batch = returned(buffer)
    assert batch.missing == ()
    assert {0, 1} == set(buffer.sample(64, LENGTH, sampler=sampler).stream.tolist())


def returned(buffer):
    """Draw until no shard is missing."""
    while True:
        batch = buffer.sample(64, LENGTH)
        assert len(batch) == 64
        if not batch.missing and set(batch.stream.tolist()) == {0, 1}:
            return batch


DRIVER = """
import os, sys, numpy, ray, reverie as rv
from reverie.ray import ShardedBuffer
ray.init(address=sys.argv[1], log_to_driver=False)
buffer = ShardedBuffer(rv.StepSpec(obs=rv.Field((2,), "int64"), action=rv.Field((), "int64")), 1000, shards=2,
                       directory=sys.argv[2], name="lasting")
writer = buffer.writer(1)
for number in range(50):
    writer.add(obs=[1, number], action=0, reward=0.0, terminated=False, truncated=False)
writer.flush()
os._exit(9)
"""


def test_shards_with_a_name_outlive_the_process_that_made_them(make, tmp_path):
    """Another finds them by it; the name is taken meanwhile, and gone when they were stopped."""
    address = ray.get_runtime_context().gcs_address
    ended = subprocess.run(
        [sys.executable, "-c", DRIVER, address, str(tmp_path / "last")], timeout=100, check=False
    )
    assert ended.returncode == 9
    found = attach("lasting", seed=0)
    assert len(found) == 50
    assert (found.sample(9, LENGTH).stream == 1).all()
    with pytest.raises(BadSetting, match="attach"):
        make(name="lasting")
    found.close()
    assert len(attach("lasting")) == 50
    found.stop()
    with pytest.raises(NoAnswer, match="got none of the name 'lasting'"):
        attach("lasting")


LEARNER = """
import sys, ray, reverie as rv
from reverie.ray import attach
ray.init(address=sys.argv[1], log_to_driver=False)
buffer = attach("learnt")
samplers = [rv.Prioritized(), rv.Shuffled(), rv.VisitBalanced()]
while True:
    for sampler in samplers:
        batch = buffer.sample(32, 5, sampler=sampler)
    print("drew", flush=True)
"""


def test_a_killed_learner_leaves_the_others_alone(make):
    """Another learner's draws go on, and what the dead one had taken of an epoch is missing in nobody else's."""
    twin = Twin(make(shards=2, name="learnt"))
    twin.grow(0, 40)
    twin.grow(1, 40)
    address = ray.get_runtime_context().gcs_address
    learner = subprocess.Popen([sys.executable, "-c", LEARNER, address], stdout=subprocess.PIPE, text=True)
    sampler, found = rv.Shuffled(), []
    for _ in range(3):
        assert learner.stdout.readline() == "drew\n"
        found.append(twin.buffer.sample(20, LENGTH, sampler=sampler))
    learner.kill()
    learner.wait(20)
    learner.stdout.close()
    found += [twin.buffer.sample(4, LENGTH, sampler=sampler) for _ in range(3)]
    drawn = [one for batch in found for one in zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True)]
    assert sorted(drawn) == sorted(alike(twin))


def test_the_page_runs(monkeypatch, tmp_path):
    """The code of docs/ray.md does what it says."""
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(block, "ray.md", "exec"), {"__name__": "__main__"})


def test_bad_input_is_refused(make, monkeypatch):
    """Each with a remedy; nothing is made."""
    with pytest.raises(BadSetting, match="wanted a multiple of 3 shards, got 1000; pass 999"):
        make(1000, shards=3)
    buffer = make(1000, shards=2)
    with pytest.raises(SpecMismatch, match="stream"):
        buffer.writer(2)
    with pytest.raises(SpecMismatch, match="obs"), buffer.writer(0) as writer:
        writer.add(**{**step(0, 0), "obs": [1, 2, 3]})
    with pytest.raises(WrongProcess, match="attach"):
        pickle.dumps(buffer)
    assert len(buffer) == 0
    buffer.stop()
    with pytest.raises(BadSetting, match="wanted files of 4 shards"):
        make(1000, shards=4)
    with monkeypatch.context() as patched:
        patched.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(BadSetting, match=r"ray.init\(\)"):
            attach("none")
    with pytest.raises(BadSetting, match='policy: wanted "wait" or "others"'):
        make(policy="some")

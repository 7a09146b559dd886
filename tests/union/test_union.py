"""A union of buffers has exactly the distribution of the whole, also while its parts are written to."""

import threading
from collections import Counter

import numpy as np
import pytest
from scipy import stats

import reverie as rv
from reverie.conformance import LEAST_P, Pair, assert_shows
from reverie.index import BOUNDARIES
from reverie.testing import NaiveBuffer
from reverie.union import LocalPart, Request
from reverie.union.draws import Draws

pytestmark = pytest.mark.long

LENGTH = 4
SPEC = rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), {"tag": rv.Field((), "float32")})


def pair_with(windows: int, capacity: int, seed: int) -> Pair:
    """A pair that has just reached so many windows inside episodes."""
    pair = Pair(capacity, 1, mean_length=15, seed=seed)
    while len(pair.twin.windows(LENGTH)) < windows:
        pair.grow(1)
    return pair


def four(seed: int = 0) -> list[Pair]:
    """Parts of 10, 400, 3 and 87 windows; the second and the fourth are full."""
    sizes = [(10, 100), (400, 480), (3, 100), (87, 110)]
    return [
        pair_with(windows, capacity, seed * 10 + place) for place, (windows, capacity) in enumerate(sizes)
    ]


def whole(pairs: list[Pair], weigh) -> dict:
    """Return what a sampler draws from the union: `weigh` gives weights of the anchors of a twin."""
    mass = {(part, step): weight for part, pair in enumerate(pairs)
            for (_, step), weight in weigh(pair.twin).items()}  # fmt: skip
    total = sum(mass.values())
    return {address: weight / total for address, weight in mass.items()}


def alike(boundary):
    return lambda twin: dict.fromkeys(twin.anchors(boundary, LENGTH), 1.0)


def by_episode(boundary):
    def weigh(twin: NaiveBuffer) -> dict:
        valid, mass = twin.anchors(boundary, LENGTH), {}
        for steps in twin.live_episodes():
            own = [address for address in steps if address in valid]
            mass |= dict.fromkeys(own, 1 / max(len(own), 1))
        return mass

    return weigh


def newest(boundary):
    def weigh(twin: NaiveBuffer) -> dict:
        head = len(twin.streams[0].steps)
        return {one: 1.0 for one in twin.anchors(boundary, LENGTH) if head - 1 - one[1] < 50}

    return weigh


def halving(boundary):
    def weigh(twin: NaiveBuffer) -> dict:
        head = len(twin.streams[0].steps)
        return {one: 0.5 ** ((head - 1 - one[1]) / 40) for one in twin.anchors(boundary, LENGTH)}

    return weigh


# What a sampler is, and the weights of anchors that it stands for.
SAMPLERS = {
    "Uniform": (rv.Uniform, alike),
    "EpisodeUniform": (rv.EpisodeUniform, by_episode),
    "Prioritized": (rv.Prioritized, alike),  # all priorities are equal at first
    "Recent(200)": (lambda: rv.Recent(200), newest),
    "Recent(half_life)": (lambda: rv.Recent(half_life=40), halving),
    "VisitBalanced(0)": (lambda: rv.VisitBalanced(0), by_episode),
    "VisitBalanced(0, step)": (lambda: rv.VisitBalanced(0, by="step"), alike),
}


def p_of(found: Counter, expected: Counter) -> float:
    """The chi-square p-value; cells of which fewer than 5 are expected are pooled."""
    assert found.keys() <= {address for address, count in expected.items() if count > 0}
    rare = [address for address, count in expected.items() if count < 5]
    cells = [(found[one], count) for one, count in expected.items() if count >= 5]
    if rare:
        cells.append((sum(found[one] for one in rare), sum(expected[one] for one in rare)))
    got, wanted = np.array(cells, float).T
    return float(stats.chisquare(got, wanted * got.sum() / wanted.sum()).pvalue)


def drawn(batch) -> list[tuple[int, int]]:
    return list(zip(batch.stream.tolist(), batch.anchor.tolist(), strict=True))


def run(pairs, sample, weigh, rounds=25, count=4000) -> float:
    """Draw while the second and the fourth part are written to; return the p-value over all rounds."""
    found, expected = Counter(), Counter()
    for _ in range(rounds):
        for address, share in whole(pairs, weigh).items():
            expected[address] += share * count
        found.update(drawn(sample(count)))
        for number in (1, 3):
            pairs[number].grow(int(pairs[number].rng.integers(1, 6)))
    return p_of(found, expected)


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_have_the_distribution_of_the_whole_while_parts_are_written_to(name, boundary):
    """Parts of 10, 400, 3 and 87 windows, two of them written to between draws: 100,000 draws, p > 0.001."""
    make, weigh = SAMPLERS[name]
    pairs = four(seed=sorted(BOUNDARIES).index(boundary))
    union = rv.Union([pair.buffer for pair in pairs], seed=3)
    sampler = make()
    p = run(pairs, lambda n: union.sample(n, LENGTH, boundary=boundary, sampler=sampler), weigh(boundary))
    assert p > LEAST_P


def test_choosing_a_part_first_is_noticed():
    """The test fails for the nearest mistake: a part at random, then a window of it."""
    pairs = four()
    union = rv.Union([pair.buffer for pair in pairs], weights=[1, 1, 1, 1], seed=3)
    assert run(pairs, lambda n: union.sample(n, LENGTH), alike("inside")) < 1e-9


def test_parts_in_proportion_to_what_they_once_had_are_noticed():
    """So it does for a part in proportion to its windows of some rounds ago."""
    pairs = four()
    part = pair_with(40, 60, 77)
    pairs[1] = part
    masses = [pair.buffer.count_windows(LENGTH) for pair in pairs]
    part.buffer.cut()
    part.twin.cut()
    for _ in range(60):  # episodes of one step: no windows any more
        step = {"obs": 1, "action": 1, "reward": 0.0, "tag": 0, "terminated": True, "truncated": False}
        part.buffer.add(**step)
        part.twin.add(**step)
    part.grow(12)
    union = rv.Union([pair.buffer for pair in pairs], weights=masses, seed=3)
    if part.buffer.count_windows(LENGTH):
        assert run(pairs, lambda n: union.sample(n, LENGTH), alike("inside"), rounds=3) < 1e-9


@pytest.mark.parametrize("boundary", ["inside", "pad_both", "cross"])
def test_priorities_are_those_of_the_whole(boundary):
    """After updates every anchor comes in proportion to its own, and its weight is that of the whole."""
    pairs = four(5)
    sampler = rv.Prioritized(1.0, beta=1.0, eta=0.5, epsilon=0.0)
    union = rv.Union([pair.buffer for pair in pairs], seed=4)
    priorities: dict = {}
    for _ in range(30):
        batch = union.sample(50, 1, boundary="pad_right", sampler=sampler)
        errors = pairs[0].rng.choice([0.1, 1.0, 4.0], 50)
        union.update_priorities(batch, errors)
        priorities.update(zip(drawn(batch), errors.tolist(), strict=True))

    def weigh(part):
        return lambda twin: {
            one: priorities.get((part, one[1]), 1.0) for one in twin.anchors(boundary, LENGTH)
        }

    expected: Counter = Counter()
    mass = {
        (part, step): weight
        for part, pair in enumerate(pairs)
        for (_, step), weight in weigh(part)(pair.twin).items()
    }
    for address, weight in mass.items():
        expected[address] = 100_000 * weight / sum(mass.values())
    batch = union.sample(100_000, LENGTH, boundary=boundary, sampler=sampler)
    assert p_of(Counter(drawn(batch)), expected) > LEAST_P
    product = batch.weight * np.array([mass[one] for one in drawn(batch)])
    assert product.max() / product.min() == pytest.approx(1, rel=1e-5), (
        "beta=1: weight is 1 / priority, up to a factor"
    )


def test_new_steps_enter_at_the_highest_priority_of_all_parts():
    pairs = four(6)
    sampler, union = rv.Prioritized(1.0, epsilon=0.0), rv.Union([pair.buffer for pair in pairs], seed=4)
    batch = union.sample(20, 1, boundary="pad_right", sampler=sampler)
    union.update_priorities(batch, np.full(20, 1e6))
    first = {part: len(pairs[part].twin.streams[0].steps) for part in range(4)}
    for pair in pairs:
        pair.grow(1)
    seen = drawn(union.sample(4000, 1, boundary="pad_right", sampler=sampler))
    assert all((part, step) in seen for part, step in first.items())


def test_settings_follow_the_sampler_that_the_user_holds():
    """Annealing beta works as with one buffer."""
    pairs = four(6)
    sampler, union = rv.Prioritized(beta=0.0), rv.Union([pair.buffer for pair in pairs], seed=4)
    union.update_priorities(union.sample(50, 1, sampler=sampler), np.linspace(0.1, 9, 50))
    assert (union.sample(50, 1, sampler=sampler).weight == 1).all()
    sampler.beta = 1.0
    assert len(set(union.sample(50, 1, sampler=sampler).weight.tolist())) > 3


@pytest.mark.parametrize("tiles", [False, True])
def test_an_epoch_shows_every_window_of_all_parts_once(tiles):
    """Shuffled: no window twice in an epoch, all of them in it, every order alike; steps added wait for the next."""
    firsts: Counter = Counter()
    pairs = four(1)
    for seed in range(300):
        union = rv.Union([pair.buffer for pair in pairs], seed=seed)
        sampler = rv.Shuffled(tiles=tiles)
        if seed == 0:
            total = sum(len(pair.twin.shuffled("inside", LENGTH, tiles)) for pair in pairs)
            seen = [one for _ in range(total // 7) for one in drawn(union.sample(7, LENGTH, sampler=sampler))]
            seen += (
                drawn(union.sample(total - len(seen), LENGTH, sampler=sampler)) if total - len(seen) else []
            )
            wanted = {(part, step) for part, pair in enumerate(pairs)
                      for _, step in pair.twin.shuffled("inside", LENGTH, tiles)}  # fmt: skip
            assert len(seen) == total
            assert set(seen) == wanted
        else:
            firsts.update(drawn(union.sample(200, LENGTH, sampler=sampler))[::20])
    assert p_of(firsts, Counter({one: sum(firsts.values()) / len(wanted) for one in wanted})) > LEAST_P


def test_fresh_shows_the_new_of_all_parts_in_turn_then_the_fallback():
    pairs = four(2)
    union, sampler = rv.Union([pair.buffer for pair in pairs], seed=0), rv.Fresh()
    seen = drawn(union.sample(400, LENGTH, sampler=sampler))
    assert {part for part, _ in seen} == {0, 1, 2, 3}
    pairs[2].grow(40)
    fresh = drawn(union.sample(6, LENGTH, sampler=sampler))
    assert {part for part, _ in fresh} == {2}
    assert len(set(fresh)) == 6
    while drawn(union.sample(6, LENGTH, sampler=sampler))[0][0] == 2:
        pass
    p = run(
        pairs, lambda n: union.sample(n, LENGTH, sampler=sampler), alike("inside"), rounds=1, count=20_000
    )
    assert p > LEAST_P


def test_a_mixture_mixes_over_the_whole():
    pairs = four(3)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    sampler = rv.Mixture(
        [(rv.Uniform(), 1), (rv.Mixture([(rv.EpisodeUniform(), 1), (rv.Recent(half_life=40), 1)]), 3)]
    )
    parts = [whole(pairs, make("inside")) for make in (alike, by_episode, halving)]
    expected: Counter = Counter()
    for shares, weight in zip(parts, (0.25, 0.375, 0.375), strict=True):
        for one, share in shares.items():
            expected[one] += 50_000 * weight * share
    assert p_of(Counter(drawn(union.sample(50_000, LENGTH, sampler=sampler))), expected) > LEAST_P


@pytest.mark.parametrize("name", ["Uniform", "Prioritized", "EpisodeUniform"])
def test_a_condition_holds_in_all_parts(name):
    pairs = four(4)
    make = {"Uniform": rv.Uniform, "Prioritized": rv.Prioritized, "EpisodeUniform": rv.EpisodeUniform}[name]
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    sampler = make(where=lambda episodes: episodes.ids % 2 == 0)

    def weigh(twin):
        shares = SAMPLERS[name][1]("inside")(twin)
        return {one: share for one, share in shares.items() if twin.episode_of(*one).order % 2 == 0}

    assert run(pairs, lambda n: union.sample(n, LENGTH, sampler=sampler), weigh, rounds=8) > LEAST_P


def test_where_hardly_any_try_succeeds_the_anchors_are_added_up():
    """Long windows, of which there are few, come as exactly."""
    pairs = [Pair(400, 2, mean_length=9, seed=seed).grow(190, 180) for seed in range(3)]
    length = max(n for n in range(5, 120) if sum(len(pair.twin.windows(n)) for pair in pairs) >= 12)
    union = rv.Union([pair.buffer for pair in pairs], seed=1)
    firsts = [0, 2, 4]
    wanted = [(first + stream, step) for first, pair in zip(firsts, pairs, strict=True)
              for stream, step in pair.twin.windows(length)]  # fmt: skip
    for sampler in (rv.Prioritized(), rv.VisitBalanced(0, by="step"), rv.Recent(half_life=1e9)):
        found = Counter(drawn(union.sample(20_000, length, sampler=sampler)))
        assert p_of(found, Counter(dict.fromkeys(wanted, 20_000 / len(wanted)))) > LEAST_P


def test_with_weights_a_part_comes_with_its_own():
    """Half and half, as RLPD draws; inside a part its own distribution; a part of weight 0 never."""
    pairs = four(1)[:3]
    union = rv.Union([pair.buffer for pair in pairs], weights=(1, 1, 0), seed=0)
    expected: Counter = Counter()
    for part in (0, 1):
        own = pairs[part].twin.uniform("inside", LENGTH)
        expected.update({(part, step): 20_000 * share for (_, step), share in own.items()})
    assert p_of(Counter(drawn(union.sample(40_000, LENGTH))), expected) > LEAST_P
    empty = rv.ReplayBuffer(pairs[0].buffer.spec, 10)
    with pytest.raises(rv.NotEnoughData, match="part 1 of the union: wanted a window of 4 steps"):
        rv.Union([pairs[0].buffer, empty], weights=(0.5, 0.5), seed=0).sample(50, LENGTH)


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
def test_rows_show_what_the_parts_show(boundary):
    """Every row, context and padding included, is what the twin of its part says; rows of parts are mixed."""
    pairs = four(7)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    out = None
    for _ in range(4):
        batch = union.sample(60, LENGTH, boundary=boundary, burn_in=2, out=out)
        assert out is None or batch is out
        parts = batch.stream.copy()
        assert np.count_nonzero(np.diff(parts)) > 5
        for number in np.unique(parts).tolist():
            rows = np.flatnonzero(parts == number)
            one = batch.map(lambda array, rows=rows: array[rows])
            one.stream[...] = 0
            assert_shows(one, pairs[number].twin, LENGTH, boundary, 2)
        out = batch


def test_a_union_of_one_is_that_one():
    """The same distribution, samplers with and without memory; counts, length and episodes, too."""
    pair = pair_with(87, 110, 1)
    union = rv.Union([pair.buffer], seed=0)
    for name, (make, weigh) in SAMPLERS.items():
        if name != "Recent(200)":
            shares = whole([pair], weigh("inside"))
            found = Counter(drawn(union.sample(20_000, LENGTH, sampler=make())))
            assert p_of(found, Counter({one: 20_000 * share for one, share in shares.items()})) > LEAST_P, (
                name
            )
    assert union.count_windows(LENGTH) == pair.buffer.count_windows(LENGTH)
    assert len(union) == len(pair.buffer)
    assert union.episodes.tolist() == pair.buffer.episodes.tolist()
    assert len(union.sample_steps(5)) == 5


class Growing(LocalPart):
    """A part that grows in the middle of a round, after the union has looked at its mass."""

    def __init__(self, pair, steps):
        super().__init__(pair.buffer, owned=False)
        self.pair, self.steps, self.draws = pair, steps, 0

    def draw(self, request, rng, tries, envelope):
        self.draws += 1
        if self.steps and self.draws % 2:
            self.pair.grow(self.steps.pop())
        return super().draw(request, rng, tries, envelope)


@pytest.mark.parametrize("sampler", [rv.Uniform(), rv.VisitBalanced(2, by="step"), rv.VisitBalanced(3)])
def test_a_part_that_grows_beyond_its_envelope_says_so(sampler):
    """The round is taken back whole: earlier parts forget it, and rows are of the mass that it has now."""
    pairs = [pair_with(100, 2000, 1), pair_with(10, 2000, 2)]
    parts = [LocalPart(pairs[0].buffer, owned=False), Growing(pairs[1], [300])]
    for part in parts:
        part.learn(0, type(sampler).__new__(type(sampler)))
        part.samplers[0] = __import__("copy").deepcopy(sampler)
    draws = Draws(parts, None, np.random.default_rng(0))
    request = Request(LENGTH, "inside", 0, 0)
    pieces = draws.draw(request, sampler, 1000)
    assert draws.broken >= 1
    got = {number: sum(len(one.batch) for at, one, _ in pieces if at == number) for number in (0, 1)}
    assert sum(got.values()) == 1000
    if isinstance(sampler, rv.Uniform):
        windows = [len(pair.twin.windows(LENGTH)) for pair in pairs]
        share = windows[1] / sum(windows)
        assert abs(got[1] / 1000 - share) < 5 * (share * (1 - share) / 1000) ** 0.5
    elif sampler.by == "step":
        # What was taken back is not counted: as many visits as rows.
        visits = sum(int(part.samplers[0].save()["visits"].sum()) for part in parts)
        assert visits == 1000


def test_a_steady_union_needs_one_round():
    """Without a writer nothing is tried in vain by samplers that know their masses."""
    pairs = four(1)
    draws = Draws([LocalPart(pair.buffer, owned=False) for pair in pairs], None, np.random.default_rng(0))
    for part in draws._parts:
        part.learn(0, rv.Uniform())
    for _ in range(50):
        draws.draw(Request(LENGTH, "inside", 0, 0), rv.Uniform(), 16)
    assert (draws.rounds, draws.broken) == (50, 0)


def test_exact_between_parts_at_rest_while_threads_write_to_others():
    """Two parts at rest, of 10 and 3 windows, keep their ratio to the window while two others change under way."""
    pairs = four(9)
    union, stop = rv.Union([pair.buffer for pair in pairs], seed=5), threading.Event()

    def write(pair):
        while not stop.is_set():
            pair.grow(1)

    threads = [threading.Thread(target=write, args=(pairs[number],)) for number in (1, 3)]
    for thread in threads:
        thread.start()
    found: Counter = Counter()
    try:
        for _ in range(400):
            found.update(drawn(union.sample(500, LENGTH)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    still = [(part, step) for part in (0, 2) for _, step in pairs[part].twin.windows(LENGTH)]
    counts = [found[one] for one in still]
    assert min(counts) > 100
    assert stats.chisquare(counts).pvalue > LEAST_P


def test_files_are_parts_and_are_followed(tmp_path):
    """A path is opened for reading, sees what its writer adds, and is closed with the union; a buffer is not."""
    paths = [tmp_path / f"{name}.replay" for name in "ab"]
    writers = [rv.ReplayBuffer(SPEC, 50, path=path, seed=0) for path in paths]
    live = rv.ReplayBuffer(SPEC, 50, seed=0)

    def add(buffer, value, count):
        for _ in range(count):
            buffer.add(obs=value, action=0, reward=0.0, tag=0, terminated=False, truncated=False)

    for value, buffer in enumerate([*writers, live]):
        add(buffer, value, 10 * (value + 1))
        if buffer.path:
            buffer.flush()
    with rv.Union([*paths, live], seed=0) as union:
        assert len(union) == 60
        assert union.streams == 3
        counts = np.bincount(union.sample(6000, 1).obs[:, 0])
        assert stats.chisquare(counts, 6000 * np.array([9, 19, 29]) / 57).pvalue > LEAST_P
        add(writers[0], 0, 20)
        counts = np.bincount(union.sample(6000, 1).obs[:, 0])
        assert stats.chisquare(counts, 6000 * np.array([29, 19, 29]) / 77).pvalue > LEAST_P
        batch = union.sample(30, 2)
        assert sorted({int(stream) for stream in batch.stream}) == [0, 1, 2]
        with pytest.raises(rv.FileError, match="open for reading"):
            union.write_back(batch, tag=np.ones((30, 2), np.float32))
    with pytest.raises(rv.BufferClosed):
        union.sample(1, 1)
    assert len(live) == 30
    assert len(writers[0]) == 30


def test_write_back_goes_to_the_part_that_owns_the_step():
    pairs = four(8)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    batch = union.sample(50, LENGTH)
    values = (1000 * batch.stream[:, None] + batch.step_ids()).astype(np.float32)
    union.write_back(batch, tag=values)
    for part, pair in enumerate(pairs):
        steps = pair.buffer.sample(300, 1, boundary="pad_right")
        changed = steps.extras["tag"][:, 0] >= 97
        assert (steps.extras["tag"][changed, 0] == 1000 * part + steps.start[changed]).all()
    assert (union.sample(50, LENGTH, sampler=rv.Shuffled()).extras["tag"] >= 1000).any()


def test_what_there_is_is_told():
    pairs = four(1)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    assert union.count_windows(LENGTH) == sum(len(pair.twin.windows(LENGTH)) for pair in pairs)
    assert len(union.episodes) == sum(len(pair.buffer.episodes) for pair in pairs)
    assert set(union.episodes["stream"].tolist()) == {0, 1, 2, 3}
    assert [one.stream for one in union.read_episodes()] == union.episodes["stream"].tolist()
    assert "4 parts" in repr(union)
    assert union.nbytes == sum(pair.buffer.nbytes for pair in pairs)


def spec_of(**fields):
    return rv.StepSpec(rv.Field((), "int64"), rv.Field((), "int64"), fields)


@pytest.mark.parametrize(
    ("parts", "more", "error", "words"),
    [
        ([], {}, rv.BadSetting, "give at least one"),
        ("a.replay", {}, rv.BadSetting, "wanted a list of buffers and paths"),
        ([3], {}, rv.BadSetting, "wanted buffers and paths of replay files, got 3"),
        (["none.replay"], {}, FileNotFoundError, "none.replay"),
        ([rv.ReplayBuffer(spec_of(), 5)] * 2, {}, rv.BadSetting, "each buffer and each file once"),
        ([rv.ReplayBuffer(spec_of(), 5)], {"weights": (1, 1)}, rv.BadSetting, "wanted 1 number"),
        ([rv.ReplayBuffer(spec_of(), 5)], {"weights": (-1,)}, rv.BadSetting, "not negative"),
        ([rv.ReplayBuffer(spec_of(), 5)], {"weights": "x"}, rv.BadSetting, "weights"),
        ([rv.ReplayBuffer(spec_of(), 5), rv.ReplayBuffer(spec_of(more=rv.Field((2,), "float32")), 5)], {},
         rv.SpecMismatch, "field 'extras/more': wanted none in part 1 of the union, as in part 0, got"),
        ([rv.ReplayBuffer(spec_of(more=rv.Field((2,), "float32")), 5),
          rv.ReplayBuffer(spec_of(more=rv.Field((3,), "float32")), 5)], {}, rv.SpecMismatch, "field 'extras/more'"),
    ],
)  # fmt: skip
def test_what_is_no_union_is_refused(parts, more, error, words):
    with pytest.raises(error, match=words):
        rv.Union(parts, **more)


def test_what_has_no_meaning_is_refused(tmp_path):
    pairs = four(1)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)

    class Mine(rv.Sampler):
        def draw(self, anchors, rng, count):
            return rv.Uniform().draw(anchors, rng, count)

    with pytest.raises(rv.BadSetting, match="the ages of episodes of several buffers cannot be compared"):
        union.sample(3, 2, sampler=rv.EpisodeUniform((0.5, 0.5)))
    with pytest.raises(rv.BadSetting, match="Mine, which has no `mass`"):
        union.sample(3, 2, sampler=Mine())
    assert len(rv.Union([pair.buffer for pair in pairs], (1, 1, 1, 1)).sample(9, 2, sampler=Mine())) == 9
    with pytest.raises(rv.BadSetting, match="one of another buffer"):
        union.update_priorities(pairs[0].buffer.sample(3, 2, sampler=rv.Prioritized()), np.ones(3))
    with pytest.raises(rv.BadSetting, match="drawn by Prioritized"):
        union.update_priorities(union.sample(3, 2), np.ones(3))
    with pytest.raises(rv.NotEnoughData, match="got none in the 2 parts of the union"):
        rv.Union([rv.ReplayBuffer(spec_of(), 5), rv.ReplayBuffer(spec_of(), 6)]).sample(3, 2)
    with pytest.raises(rv.WrongProcess, match="make a union there"):
        __import__("pickle").dumps(union)


def test_a_sampler_that_is_dropped_is_forgotten_by_the_parts():
    pairs = four(1)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    for _ in range(20):
        union.sample(3, 2, sampler=rv.Prioritized())
    # As many as batches from other processes may still name, and the last one.
    assert all(len(part.samplers) <= 9 for part in union._parts)


def test_feeds_take_a_union():
    torch = pytest.importorskip("torch")
    from reverie.torch import DeviceMirror, feed

    pairs = four(1)
    union = rv.Union([pair.buffer for pair in pairs], seed=0)
    with feed(union, 16, LENGTH, device="cpu") as batches:
        shown = [next(batches) for _ in range(5)]
    assert all(isinstance(batch.obs, torch.Tensor) and batch.obs.shape == (16, LENGTH + 1) for batch in shown)
    assert len({int(part) for batch in shown for part in batch.stream}) > 1
    with pytest.raises(rv.BadSetting, match="several rings"):
        DeviceMirror(union, "cpu")

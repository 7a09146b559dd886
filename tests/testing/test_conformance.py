"""Every sampler passes the suite that users' own are to pass; boundary rules and stores pass suites of the tests."""

import pytest

import reverie as rv
from reverie.conformance import Pair, SamplerSuite, assert_shows, chi_square_p
from reverie.index import BOUNDARIES, Anchors, Drawn, Runs
from reverie.store.packed import PackedRing
from reverie.store.plain import Ring
from support.samplers import NAMES
from support.suites import BoundarySuite, StoreSuite

pytestmark = pytest.mark.long

WEIGHTS = (0.1, 0.2, 0.7)


class TestUniform(SamplerSuite):
    def make(self):
        return rv.Uniform()

    def distribution(self, twin, boundary, length):
        return twin.uniform(boundary, length)


class TestEpisodeUniform(SamplerSuite):
    def make(self):
        return rv.EpisodeUniform()

    def distribution(self, twin, boundary, length):
        return twin.episode_uniform(boundary, length)


class TestEpisodeUniformByAge(SamplerSuite):
    def make(self):
        return rv.EpisodeUniform(WEIGHTS)

    def distribution(self, twin, boundary, length):
        return twin.episode_uniform(boundary, length, WEIGHTS)


class TestEpisodeUniformWithFewEpisodes(SamplerSuite):
    """More weights than there are ever live episodes."""

    def make(self):
        return rv.EpisodeUniform([0.01] * 100)

    def distribution(self, twin, boundary, length):
        return twin.episode_uniform(boundary, length, [0.01] * 100)


class TestRecentNewest(SamplerSuite):
    def make(self):
        return rv.Recent(40)

    def distribution(self, twin, boundary, length):
        return twin.recent(boundary, length, newest=40)


class TestRecentHalfLife(SamplerSuite):
    def make(self):
        return rv.Recent(half_life=9)

    def distribution(self, twin, boundary, length):
        return twin.recent(boundary, length, half_life=9)


class TestPrioritized(SamplerSuite):
    def make(self):
        return rv.Prioritized()

    def distribution(self, twin, boundary, length):
        return twin.uniform(boundary, length)  # all priorities are equal at first


class TestVisitBalancedEpisodes(SamplerSuite):
    def make(self):
        return rv.VisitBalanced(5)

    def distribution(self, twin, boundary, length):
        return twin.visit_balanced(boundary, length, {}, 5)


class TestVisitBalancedSteps(SamplerSuite):
    def make(self):
        return rv.VisitBalanced(2, by="step")

    def distribution(self, twin, boundary, length):
        return twin.visit_balanced(boundary, length, {}, 2, by="step")


class TestFresh(SamplerSuite):
    def make(self):
        return rv.Fresh(rv.Prioritized())


class TestShuffled(SamplerSuite):
    def make(self):
        return rv.Shuffled()

    def distribution(self, twin, boundary, length):
        return twin.shuffled(boundary, length)


class TestShuffledTiles(SamplerSuite):
    def make(self):
        return rv.Shuffled(tiles=True)


class TestMixture(SamplerSuite):
    def make(self):
        return rv.Mixture([(rv.Uniform(), 1), (rv.Prioritized(), 2), (rv.Fresh(), 0.5)])


def test_every_sampler_takes_part():
    """A sampler that is added to the public names must be added here."""
    suites = [suite for name, suite in globals().items() if name.startswith("Test")]
    seen = {type(suite().make()).__name__ for suite in suites if issubclass(suite, SamplerSuite)}
    assert seen == NAMES


class OneBoundary(BoundarySuite):
    name = ""

    def make(self):
        return BOUNDARIES[self.name]

    def anchors(self, twin, length):
        return twin.anchors(self.name, length)


for _name in BOUNDARIES:
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (OneBoundary,), {"name": _name})


class TestRing(StoreSuite):
    def make(self, columns, streams, capacity):
        return Ring(columns, Runs(streams, capacity))


class TestPackedRing(StoreSuite):
    def make(self, columns, streams, capacity):
        return PackedRing(columns, Runs(streams, capacity))


# --- the suites themselves can fail ----------------------------------------------------------------------


class Wrong(SamplerSuite):
    """A suite around a sampler with one defect, told by `defect`."""

    def __init__(self, defect):
        self.defect = defect

    def make(self):
        return Defective(self.defect)

    def distribution(self, twin, boundary, length):
        return twin.uniform(boundary, length) if self.defect == "skewed" else None


class Defective(rv.Sampler):
    """Draws uniformly, but for one defect."""

    def __init__(self, defect):
        self.defect, self.calls = defect, 0

    def draw(self, anchors, rng, count):
        self.calls += 1
        if self.defect == "late":  # the newest step, which need not be valid
            stream = int(anchors.index.head.argmax())
            ids = anchors.index.head[[stream] * count] - 1
            return Drawn(anchors.index.episodes_at(stream, ids), ids)
        if self.defect == "few":
            count = min(count, 500)
        if self.defect == "own":
            rng = __import__("numpy").random.default_rng()
        if self.defect == "forgets":
            rng = __import__("numpy").random.default_rng([self.calls, int(rng.integers(9))])
        rank = rng.integers(0, anchors.require(), count)
        return Drawn(*anchors.at_rank(rank * rank // (rank.max() + 1) if self.defect == "skewed" else rank))


@pytest.mark.parametrize(
    ("defect", "test"),
    [
        ("late", "test_only_valid_anchors_come_while_steps_come_and_go"),
        ("skewed", "test_the_distribution_is_the_one_it_states"),
        ("few", "test_any_count_is_met"),
        ("own", "test_the_given_generator_decides"),
        ("forgets", "test_what_it_saves_is_enough_to_go_on"),
        ("late", "test_too_little_data_is_refused"),
    ],
)
def test_a_defective_sampler_fails_the_suite(defect, test):
    """Each test of the sampler suite trips over the defect it is there for."""
    with pytest.raises(AssertionError):
        getattr(Wrong(defect), test)()


class Forgetful(Ring):
    """Does not take new values for what lies there."""

    def rewrite(self, slots, values):
        pass


def test_a_defective_store_fails_the_suite():
    """A store that loses a rewrite is found out."""
    suite = StoreSuite()
    suite.make = lambda columns, streams, capacity: Forgetful(columns, Runs(streams, capacity))
    with pytest.raises(AssertionError, match="of slots"):
        suite.test_what_was_written_last_is_read()


def test_content_that_differs_in_one_place_is_found():
    """The comparison with the twin reads every array of a batch, padding included."""
    pair = Pair(60, 2, mean_length=6).grow(50, 40)
    for boundary in BOUNDARIES:
        batch = pair.buffer.sample(8, 4, boundary=boundary, burn_in=2)
        assert_shows(batch, pair.twin, 4, boundary, burn_in=2)
        names = ["obs", "action", "reward", "is_first", "mask", "obs_mask", "train_mask"]
        names += ["is_last", "is_terminal", "id"] if boundary == "cross" else ["terminated", "truncated"]
        for array in [*(getattr(batch, name) for name in names), batch.extras["tag"]]:
            kept = array[5, 3]
            array[5, 3] = not kept if array.dtype == bool else kept + 1
            with pytest.raises(AssertionError):
                assert_shows(batch, pair.twin, 4, boundary, burn_in=2)
            array[5, 3] = kept


def test_the_p_value_is_that_of_scipy():
    """The chi-square test that needs no SciPy agrees with SciPy's to a tenth, from 0.5 down to 1e-6."""
    from scipy import stats

    for cells in (2, 5, 60):
        for excess in (0.5, 1.0, 2.0, 4.0):
            counts = [1000] * cells
            shift = int((excess * 1000 * (cells - 1) / 2) ** 0.5 + 20 * excess)
            counts[0], counts[1] = counts[0] + shift, counts[1] - shift
            wanted = float(stats.chisquare(counts).pvalue)
            drawn = [(0, cell) for cell, count in enumerate(counts) for _ in range(count)]
            got = chi_square_p(drawn, {(0, cell): 1 / cells for cell in range(cells)})
            if wanted > 1e-6:
                assert got == pytest.approx(wanted, rel=0.25, abs=1e-3)
            else:
                assert got < 1e-4
    assert chi_square_p([(0, 9)], {(0, 0): 1.0}) == 0.0


def test_anchors_that_are_no_window_are_refused():
    """A batch whose anchor is not valid is told apart from a valid one."""
    pair = Pair(60, 1, mean_length=6).grow(50)
    batch = pair.buffer.sample(3, 4)
    invalid = set(pair.twin.live_steps()) - pair.twin.windows(4)
    batch.anchor[1] = min(invalid)[1]
    with pytest.raises(AssertionError):
        assert_shows(batch, pair.twin, 4, "inside")
    assert Anchors(pair.index, "inside", 4).count() == len(pair.twin.windows(4))

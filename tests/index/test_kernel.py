"""The C kernel does what NumPy does, byte for byte, and writes nothing where it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.batch import contents
from reverie.engine import gather
from reverie.index import anchors, kernel
from reverie.samplers import sumtree, weights
from reverie.values import tree_leaves
from support.batches import write

native = kernel.load(False)
pytestmark = pytest.mark.skipif(
    native is None, reason="needs the C kernel: install reverie where a C compiler is"
)
DTYPES = ("uint8", "int16", "float32", "float64", "bool", "float16")
USERS = (gather, anchors, sumtree, weights)


def with_kernel(module, call):
    """Return what a call returns when the functions of `module` are in use, or NumPy's where it is None."""
    before = [user.native for user in USERS]
    for user in USERS:
        user.native = module
    try:
        return call()
    finally:
        for user, known in zip(USERS, before, strict=True):
            user.native = known


def arrays(batch):
    """Return the bytes of every array of a batch, by name."""
    return {name: (leaf.dtype, leaf.shape, leaf.tobytes()) for name, leaf in tree_leaves("", contents(batch))}


fields = st.builds(rv.Field, st.lists(st.integers(1, 5), max_size=2).map(tuple), st.sampled_from(DTYPES))


@given(
    obs=st.one_of(fields, st.fixed_dictionaries({"a": fields, "b": fields})),
    extra=fields,
    streams=st.integers(1, 3),
    capacity=st.integers(1, 30),
    steps=st.integers(1, 60),
    seed=st.integers(0, 99),
    mean=st.sampled_from((1.5, 6.0, 50.0)),
    draws=st.lists(
        st.tuples(
            st.integers(1, 70),
            st.integers(1, 12),
            st.integers(0, 4),
            st.sampled_from(("inside", "inside", "pad_right", "pad_both")),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=5,
    ),
)
@settings(max_examples=40, deadline=None)
def test_batches_are_those_of_numpy(obs, extra, streams, capacity, steps, seed, mean, draws):
    """Every array of every batch, and the generator behind them: wrapped rings, ends, context, several streams."""
    spec = rv.StepSpec(obs, rv.Field((), "int64"), {"extra": extra})

    def drawn(module):
        buffer = rv.ReplayBuffer(spec, capacity * streams, streams=streams, seed=seed)
        samplers = rv.Uniform(), rv.Prioritized(), rv.EpisodeUniform()
        write(buffer, steps, seed, mean)
        found = []
        for batch, length, burn_in, boundary, which in draws:
            try:
                one = buffer.sample(
                    batch, length, boundary=boundary, burn_in=burn_in, sampler=samplers[which]
                )
            except (rv.NotEnoughData, rv.BadSetting) as error:
                found.append(str(error))
                continue
            found.append(arrays(one))
            if which == 1:
                buffer.update_priorities(one, one.reward)
            found.append(arrays(buffer.sample(batch, length, boundary=boundary, burn_in=burn_in, out=one)))
            write(buffer, 2, seed, mean)
        return found, str(buffer.engine.memories.rng.bit_generator.state)

    assert with_kernel(native, lambda: drawn(native)) == with_kernel(None, lambda: drawn(None))


@given(
    size=st.sampled_from((1, 7, 1024, 1025, 16_385, 40_000)),
    seed=st.integers(0, 999),
    changes=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_sums_and_draws_of_trees_are_those_of_numpy(size, seed, changes):
    """Every sum, bit for bit, and every place; also with weights of zero, and barred ones."""

    def changed(module):
        tree, rng, found = sumtree.SumTree(size), np.random.default_rng(seed), []
        for count, bars in changes:
            places = rng.integers(0, size, count)
            tree.set(places, rng.random(count) ** 9 * 10.0 ** rng.integers(-9, 9) * (rng.random(count) < 0.8))
            if bars:
                tree.bar(np.unique(rng.integers(0, size, 5)))
            tree.check()
            found += [level.tobytes() for level in (*tree._levels, tree._root_sums)]
            if tree.total > 0:
                targets = np.append(rng.random(50) * tree.total, (0.0, np.nextafter(tree.total, 0)))
                found.append(tree.find(targets).tolist())
        return found

    assert with_kernel(native, lambda: changed(native)) == with_kernel(None, lambda: changed(None))


@given(
    seed=st.integers(0, 999),
    count=st.integers(0, 60),
    room=st.integers(0, 60),
    length=st.integers(1, 9),
    lanes=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_anchors_are_chosen_as_in_numpy(seed, count, room, length, lanes):
    """The valid ones in their order, as many as there is room for, and how many there are in all."""
    rng, capacity = np.random.default_rng(seed), 20
    episode_of = rng.integers(0, 6, capacity * lanes).astype(np.int32)
    settled, ids = rng.integers(0, 90, 6), rng.integers(0, 90, count)
    lane = rng.integers(0, lanes, count)
    episodes, chosen = np.full(room, -7), np.full(room, -7)
    stream = None if lanes == 1 else lane
    table = episode_of, settled, np.zeros(6, np.int8)
    good = native.choose(ids, stream, 0, 0, capacity, length, *table, episodes, chosen, None)
    of = episode_of[ids % capacity + lane * capacity]
    valid = ids < settled[of] - (length - 1)
    kept = min(room, int(valid.sum()))
    assert good == valid.sum()
    assert chosen.tolist() == ids[valid][:kept].tolist() + [-7] * (room - kept)
    assert episodes.tolist() == of[valid][:kept].tolist() + [-7] * (room - kept)


# --- what is refused -------------------------------------------------------------------------------------------------


def filling():
    """Return good arguments of `fill`, in their order: two windows of three steps of a stream of eight."""
    flags = {name: np.full((2, 3 + more), True) for name, more in (
        ("terminated", 0), ("truncated", 0), ("is_first", 1), ("mask", 0), ("obs_mask", 1), ("train_mask", 0))}  # fmt: skip
    beside = {name: np.full(2, 9) for name in ("stream", "start", "anchor")}
    return flags | beside | {
        "weight": np.full(2, 9, np.float32),
        "streams": np.zeros(2, np.int64),
        "starts": np.array([0, 4]),
        "anchors": np.array([0, 4]),
        "episodes": np.array([0, 1]),
        "first": np.array([0, 3]),
        "stop": np.array([3, 9]),
        "final_slot": np.array([1, -1]),
        "ended": np.array([1, 0], np.int8),
        "length": 3,
        "burn_in": 1,
        "slots": 8,
        "capacity": 8,
        "stored obs": np.arange(16, dtype=np.uint8).reshape(8, 2),
        "obs": np.full((2, 4, 2), 9, np.uint8),
        "finals": np.arange(4, dtype=np.uint8).reshape(2, 2),
        "stored reward": np.arange(8, dtype=np.float32),
        "reward": np.full((2, 3), 9, np.float32),
        "no finals": None,
    }  # fmt: skip


WRITTEN = ("terminated", "truncated", "is_first", "mask", "obs_mask", "train_mask", "stream", "start", "anchor",
           "weight", "obs", "reward")  # fmt: skip


def test_two_windows_by_hand():
    """One ends its episode, whose final observation lies beside the ring; context is left out of `train_mask`."""
    out = filling()
    native.fill(*out.values())
    assert out["obs"].tolist() == [[[0, 1], [2, 3], [4, 5], [2, 3]], [[8, 9], [10, 11], [12, 13], [14, 15]]]
    assert out["reward"].tolist() == [[0, 1, 2], [4, 5, 6]]
    assert out["terminated"].tolist() == [[False, False, True], [False] * 3]
    assert not out["truncated"].any()
    assert out["is_first"].tolist() == [[True, False, False, False], [False] * 4]
    assert out["mask"].all()
    assert out["train_mask"].tolist() == [[False, True, True]] * 2
    assert out["obs_mask"].all()
    assert [out[name].tolist() for name in ("stream", "start", "anchor")] == [[0, 0], [0, 4], [0, 4]]
    assert out["weight"].tolist() == [1.0, 1.0]


BAD_FILLS = {
    "a start that was never": ("starts", np.array([0, -1])),
    "a start beyond all": ("starts", np.array([0, 2**62])),
    "an episode that is none": ("episodes", np.array([0, 2])),
    "an episode below none": ("episodes", np.array([-1, 1])),
    "a stream too many": ("streams", np.array([0, 1])),
    "a stream below none": ("streams", np.array([0, -1])),
    "integers of another kind": ("starts", np.array([0, 4], np.int32)),
    "one address too few": ("anchors", np.array([0])),
    "a table of two lengths": ("stop", np.array([3, 9, 9])),
    "a final observation beyond all": ("final_slot", np.array([2, -1])),
    "a final observation below none": ("final_slot", np.array([-2, -1])),
    "a table of another kind": ("ended", np.array([1, 0])),
    "a short column": ("stored obs", np.zeros((7, 2), np.uint8)),
    "a column without rows": ("stored obs", np.array(3, np.uint8)),
    "a column with gaps": ("stored obs", np.zeros((8, 4), np.uint8)[:, ::2]),
    "a list for a column": ("stored obs", [[0, 1]] * 8),
    "no column": ("stored obs", None),
    "rows of another size": ("finals", np.zeros((2, 3), np.uint8)),
    "no final observations": ("finals", np.zeros((0, 2), np.uint8)),
    "final observations of what has none": ("no finals", np.zeros(2, np.float32)),
    "a batch of one window": ("obs", np.zeros((1, 4, 2), np.uint8)),
    "a batch of three windows": ("reward", np.zeros((3, 3), np.float32)),
    "a step too few": ("obs", np.zeros((2, 3, 2), np.uint8)),
    "a batch of half rows": ("obs", np.zeros((2, 7), np.uint8)),
    "flags of another size": ("is_first", np.zeros((2, 3), np.bool_)),
    "flags of another length": ("mask", np.zeros((2, 4), np.bool_)),
    "flags of another kind": ("mask", np.zeros((2, 3), np.uint8)),
    "numbers of another kind": ("start", np.zeros(2, np.float64)),
    "numbers that are not aligned": ("start", np.zeros(17, np.int8)[1:].view(np.int64)),
    "weights of another kind": ("weight", np.zeros(2, np.int32)),
    "no length": ("length", 0),
    "another length": ("length", 2),
    "a length beyond all": ("length", 2**62),
    "a length beyond memory": ("length", 2**60),
    "a length beyond integers": ("length", 2**70),
    "windows longer than a stream": ("capacity", 3),
    "more context than there is": ("burn_in", 4),
    "no capacity": ("capacity", 0),
    "no slots": ("slots", 0),
    "a length that is none": ("length", "3"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_FILLS))
def test_fill_refuses_and_touches_nothing(name):
    """Every array of the batch is as before."""
    args = filling()
    place, value = BAD_FILLS[name]
    args[place] = value
    before = {name: args[name].tobytes() for name in WRITTEN}
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
        native.fill(*args.values())
    assert {name: args[name].tobytes() for name in WRITTEN} == before


@pytest.mark.parametrize("count", [0, 1, 9, 21, 23, 24, 26, 27])
def test_fill_refuses_another_number_of_arguments(count):
    """One that is too few, and columns of which a part is missing."""
    args = filling()
    before = {name: args[name].tobytes() for name in WRITTEN}
    with pytest.raises(TypeError, match="wanted 22 arguments or more"):
        native.fill(*list(args.values())[:count])
    assert {name: args[name].tobytes() for name in WRITTEN} == before


@pytest.mark.parametrize("name", WRITTEN)
def test_fill_refuses_what_must_not_be_written(name):
    """A batch whose array is read-only stays as it is."""
    args = filling()
    args[name].flags.writeable = False
    before = {name: args[name].tobytes() for name in WRITTEN}
    with pytest.raises(ValueError, match=r"read-only|writable"):
        native.fill(*args.values())
    assert {name: args[name].tobytes() for name in WRITTEN} == before


@pytest.mark.parametrize("call", ["choose", "walk", "fill", "place", "put", "put_lanes"])
def test_every_function_counts_its_arguments(call):
    """None at all, and many."""
    for count in (0, 40):
        with pytest.raises((TypeError, ValueError)):
            getattr(native, call)(*[None] * count)


@pytest.mark.parametrize(("place", "value"), [
    (0, np.array([0, -1])), (0, np.array([0.0, 1.0])), (0, np.arange(4)[::2]), (1, np.array([1, 0])), (1, np.array([-1, 0])), (1, np.array([0])),
    (4, 0), (5, 0), (6, np.array([0, 5, 0], np.int32)), (6, np.array([0, -1, 0], np.int32)), (6, np.array([0, 0, 0])),
    (7, np.array([9])), (8, np.zeros(2, np.int64)), (9, np.full(3, -7)), (10, np.full(2, -7, np.int32)), (4, 2**70), (2, -1),
])  # fmt: skip
def test_choose_refuses_and_touches_nothing(place, value):
    """Ids, streams and tables that do not fit each other."""
    table = np.array([0, 1, 0], np.int32), np.array([9, 9]), np.zeros(2, np.int8)
    args = [np.array([0, 1]), None, 0, 0, 3, 1, *table, np.full(2, -7), np.full(2, -7), None]
    assert native.choose(*args[:9], *(array.copy() for array in args[9:11]), None) == 2
    args[place] = value
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
        native.choose(*args)
    assert all((array == -7).all() for array in args[9:11])


def by_slot():
    """Return good arguments of `choose`: slots of a stream of four whose oldest step has the id 5."""
    table = np.array([0, 1, 1, 0], np.int32), np.array([9, 7]), np.array([0, 1], np.int8)
    return [
        np.array([0, 1, 2, 3]),
        None,
        5,
        8,
        4,
        2,
        *table,
        np.full(4, -7),
        np.full(4, -7),
        np.full(4, -7, np.int8),
    ]


def test_four_slots_by_hand():
    """The ids are 8, which is not live, 5 and 6, whose episode ended with step 6, and 7, whose episode runs."""
    args = by_slot()
    args[7][0] = 8
    assert native.choose(*args) == 1
    assert args[9].tolist() == [0, 1, 1, 0]
    assert args[10].tolist() == [8, 5, 6, 7]
    assert args[11].tolist() == [-2, 1, -1, 0]


@pytest.mark.parametrize(("place", "value"), [
    (0, np.array([0, 4, 1, 2])), (0, np.array([0, -1, 1, 2])), (0, np.arange(2)), (0, np.zeros(4)), (2, -1), (3, -1), (4, 5), (4, 0),
    (5, 0), (6, np.array([0, 2, 0, 0], np.int32)), (6, np.array([0, -1, 0, 0], np.int32)), (6, np.zeros(4, np.int64)),
    (7, np.array([9])), (8, np.zeros(2, np.int64)), (9, np.zeros(3, np.int64)), (11, np.zeros(4, np.bool_)), (5, 2**70),
])  # fmt: skip
def test_choose_refuses_slots_and_touches_nothing(place, value):
    """Slots, tables and sizes that do not fit each other."""
    args = by_slot()
    args[place] = value
    before = [array.tobytes() for array in args[9:]]
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
        native.choose(*args)
    assert [array.tobytes() for array in args[9:]] == before


@pytest.mark.parametrize("places", [np.array([0, 1025]), np.array([-1]), np.array([1.0]), [0]])
def test_trees_refuse_places_that_are_none(places):
    """No sum changes."""
    levels, sums = [np.ones((64, 16)), np.full(64, 3.0)], np.full(64, 7.0)
    with pytest.raises((IndexError, TypeError)):
        native.walk(None, places, 0, sums, *levels)
    assert (levels[1] == 3.0).all()
    assert (sums == 7.0).all()


@pytest.mark.parametrize(("levels", "sums"), [
    ([], np.ones(4)), ([np.ones(4)], np.ones(3)), ([np.ones((4, 15)), np.ones(4)], np.ones(4)),
    ([np.ones((4, 16)), np.ones(3)], np.ones(3)), ([np.ones(0)], np.ones(0)), ([[np.ones(4)]], np.ones(4)),
    ([np.ones(4, np.float32)], np.ones(4)), ([np.ones((1, 16))] * 16 + [np.ones(1)], np.ones(1)),
    ([np.ones((4, 16)), np.ones(4)[:, None][:, :0], np.ones(4)], np.ones(4)),
])  # fmt: skip
def test_trees_refuse_levels_that_do_not_fit(levels, sums):
    """Each node has 16 children and a parent, and there are no more than 16 levels."""
    for targets in (None, np.zeros(1)):
        places = np.full(1, 0)
        with pytest.raises((TypeError, ValueError)):
            native.walk(targets, places, 0, sums, *levels)
        assert places.tolist() == [0]


@pytest.mark.parametrize("barred", [-1, None, 2**70])
def test_trees_refuse_how_many_are_barred(barred):
    """It is a count."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        native.walk(None, np.zeros(1, np.int64), barred, np.ones(4), np.ones(4))


# --- where steps are put ---------------------------------------------------------------------------------------------


def putting(row=(3,), dtype=np.float32):
    """Return good arguments of `place`: two streams of four slots, of which the first ones hold a step."""
    heads = np.array([1, 1])
    return {
        "obs": np.zeros((8, *row), dtype), "action": np.zeros(8, np.int64), "reward": np.zeros(8, np.float32),
        "head": heads, "tail": np.zeros(2, np.int64), "open_episode": np.array([0, 1]),
        "front_stop": np.array([9, 9]), "episode_of_slot": np.zeros(8, np.int32), "stop": np.array([1, 1]),
        "settled": np.zeros(2, np.int64), "total": np.zeros(2), "capacity": 4,
        "ndarray": np.ndarray, "number": np.int64, "rewards": frozenset({float}), "false": np.False_,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [
    ("obs", np.zeros((7, 3))), ("obs", np.zeros(())), ("action", np.zeros(9, np.int64)), ("reward", np.zeros(8)),
    ("reward", np.zeros((4, 2), np.float32)), ("head", np.zeros(1, np.int64)), ("tail", np.zeros(3, np.int64)),
    ("open_episode", np.zeros(2, np.int32)), ("front_stop", [9, 9]), ("episode_of_slot", np.zeros(8, np.int64)),
    ("stop", np.zeros(3, np.int64)), ("total", np.zeros(2, np.float32)), ("capacity", 3), ("capacity", 0),
    ("capacity", 8), ("capacity", 2**62),
])  # fmt: skip
def test_place_refuses_arrays_that_do_not_fit(name, value):
    """Each has a row for every slot, every stream or every episode."""
    args = putting()
    native.place(*args.values())
    args[name] = value
    with pytest.raises((TypeError, ValueError)):
        native.place(*args.values())


@pytest.mark.parametrize("width", [3, 16, 1024, 1040, 1041, 12_288])
@pytest.mark.parametrize("shift", [0, 1, 16, 40])
def test_rows_of_every_size_are_stored_whole(width, shift):
    """Also where they go past the cache, from wherever they lie; and nothing is written beside them."""
    rng, args = np.random.default_rng(width + shift), putting((width,), np.uint8)
    args["obs"][...] = 7
    held = rng.integers(0, 256, width + shift, np.uint8)
    assert native.put(native.place(*args.values()), held[shift:], 5, 0.5, False, False, 1)
    expected = np.full((8, width), 7, np.uint8)
    expected[5] = held[shift:]
    assert args["obs"].tobytes() == expected.tobytes()
    assert args["action"].tolist() == [0, 0, 0, 0, 0, 5, 0, 0]
    assert args["head"].tolist() == [1, 2]


@pytest.mark.parametrize("shift", [0, 16, 1024, 2048, 3072])
def test_a_row_may_overlap_its_slot(shift):
    """A view of what is stored is a row like any other."""
    args = putting((2048,), np.uint8)
    flat = args["obs"].reshape(-1)
    flat[...] = np.arange(len(flat)) // 16
    row = flat[shift : shift + 2048].copy()
    assert native.put(native.place(*args.values()), flat[shift : shift + 2048], 5, 0.5, False, False, 0)
    assert args["obs"][1].tobytes() == row.tobytes()


# --- which one is in use ---------------------------------------------------------------------------------------------


def test_numpy_can_be_asked_for():
    """With REVERIE_PURE=1 there is no kernel, and the public name says so."""
    assert kernel.load(True) is None
    assert rv.kernel == ("NumPy" if kernel.native is None else "C")


def test_a_kernel_of_another_version_is_refused(monkeypatch):
    """It would take other arguments."""
    monkeypatch.setattr(kernel, "import_module", lambda name: SimpleNamespace(TWINS=0))
    with pytest.raises(ImportError, match="wanted a C kernel of version 4, got 0"):
        kernel.load(False)


class Narrow(rv.Sampler):
    """Draws as Uniform does, and returns integers of 32 bits, every other one of an array."""

    def draw(self, anchors, rng, count):
        """Return what Uniform draws."""
        drawn = rv.Uniform().draw(anchors, rng, count)
        return drawn._replace(
            episodes=np.repeat(drawn.episodes, 2)[::2], ids=np.repeat(drawn.ids.astype(np.int32), 2)[::2]
        )


def test_a_sampler_of_a_users_own_may_draw_other_integers():
    """Its batches are those of NumPy, too."""

    def drawn():
        buffer = write(
            rv.ReplayBuffer(rv.StepSpec(rv.Field((2,), "uint8"), rv.Field((), "int64")), 60, seed=1), 90, 2
        )
        return arrays(buffer.sample(20, 4, sampler=Narrow()))

    assert with_kernel(native, drawn) == with_kernel(None, drawn)

"""What a field takes without loss, what it takes on request, and sizes that no memory holds."""

import json

import numpy as np
import pytest

import reverie as rv
from reverie.store.memory import available_bytes

F = rv.Field
INT64_MIN = -(2**63)


def numbers_of(dtype) -> list:
    """Integers around the largest one up to which a float is exact, its multiples, and the ends of 64 bits."""
    edge = 2 ** (np.finfo(dtype).nmant + 1)
    around = [
        edge - 1,
        edge,
        edge + 1,
        edge + 2,
        2 * edge + 1,
        2 * edge + 2,
        4 * edge + 4,
        65504,
        65505,
        2**16,
        2**40,
    ]
    ends = [2**53 + 1, 2**60, 2**62 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**64 - 2**11]
    return [0, 1, *around, *ends, *(-number for number in around), INT64_MIN, INT64_MIN + 1]


def is_exact(number: int, dtype) -> bool:
    with np.errstate(over="ignore"):
        held = np.array([float(number)]).astype(dtype)[0]
    return bool(np.isfinite(held)) and int(held) == number and int(float(number)) == number


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_integers_that_a_float_does_not_hold_are_refused(dtype):
    """Python integers, lists of them, and lists mixed with floats are taken exactly or not at all."""
    field, pair = F((), dtype), F((2,), dtype)
    for number in numbers_of(dtype):
        if is_exact(number, dtype):
            assert int(np.asarray(field.validate("obs", number), dtype)) == number
            assert int(np.asarray(pair.validate("obs", [number, 1]), dtype)[0]) == number
            assert int(np.asarray(pair.validate("obs", (0.5, number)), dtype)[1]) == number
            continue
        for shape, value in ((field, number), (pair, [number, 0]), (pair, (1, number)), (pair, [0.5, number]),
                             (pair, [np.float32(1), number])):  # fmt: skip
            with pytest.raises(rv.SpecMismatch, match=f"wanted dtype {dtype}, got .*; .*(range|exactly)"):
                shape.validate("obs", value)


@pytest.mark.parametrize("source", ["int64", "uint64"])
def test_integer_arrays_that_a_double_does_not_hold_are_refused(source):
    """int64 and uint64 arrays go into float64 where every number is held exactly, into float32 never."""
    limits = np.iinfo(source)
    field = F((3,), "float64")
    for number in numbers_of("float64"):
        if not limits.min <= number <= limits.max:
            continue
        array = np.array([0, number, 1], source)
        if is_exact(number, "float64"):
            assert int(np.asarray(field.validate("obs", array), "float64")[1]) == number
        else:
            with pytest.raises(
                rv.SpecMismatch, match=r"wanted dtype float64, got u?int64; float64 does not hold"
            ):
                field.validate("obs", array)
        with pytest.raises(rv.SpecMismatch, match="wanted dtype float32"):
            F((3,), "float32").validate("obs", array)


def test_integers_of_64_bits_in_lists_are_exact():
    """NumPy makes floats of such lists; they go into a uint64 field as they are, and nowhere with a sign."""
    large = [1, 2**63 + 1]
    assert F((2,), "uint64").validate("obs", large).tolist() == large
    for dtype, value in (("int64", large), ("float64", large), ("uint64", [-1, 2**63 + 1]), ("float64", [-1, 2**63 + 1]),
                         ("int64", [-1, 2**63 + 1]), ("uint64", [1, 2**64]), ("float64", 2**64 + 1)):  # fmt: skip
        with pytest.raises(rv.SpecMismatch):
            F(np.shape(value), dtype).validate("obs", value)


def test_python_floats_are_rounded():
    """A Python float is a double by accident: float fields round it, but not to infinity."""
    assert F((2,), "float32").validate("obs", [0.1, 1e-50]).astype("float32").tolist() == [
        float(np.float32(0.1)),
        0.0,
    ]
    assert F((), "float16").validate("obs", 2049.0).astype("float16") == 2048
    with pytest.raises(rv.SpecMismatch, match="check the range"):
        F((2,), "float32").validate("obs", [1e300, 0.0])


def test_integer_rewards_are_exact_too():
    """An integer reward that float32 does not hold is refused, alone and in a lane; as a float it is rounded."""
    buffer = rv.ReplayBuffer(rv.StepSpec(F((), "int8"), F((), "int8")), 8, streams=2, seed=0)
    step = {"obs": 0, "action": 0, "terminated": True, "truncated": False}
    lanes = {"obs": [0, 0], "action": [0, 0], "terminated": [True, True], "truncated": [False, False]}
    for reward in (2**24 + 1, -(2**24) - 1, np.int64(2**24 + 1), 2**62 + 1):
        with pytest.raises(rv.SpecMismatch, match="wanted an integer that float32 holds exactly, got"):
            buffer.add(**step, reward=reward)
        with pytest.raises(rv.SpecMismatch, match="wanted integers that float32 holds exactly, got"):
            buffer.add_batch(**lanes, reward=[0, reward])
    assert len(buffer) == 0
    buffer.add(**step, reward=float(2**24 + 1))
    buffer.add(**step, reward=2**40)
    assert sorted(buffer.sample(50, 1).reward[:, 0].tolist())[::49] == [2.0**24, 2.0**40]


# --- cast and finite ---------------------------------------------------------------------------------------


def test_a_field_casts_on_request():
    """cast=True takes wider floats and rounds them; integers stay exact, and infinity is made of no finite number."""
    field = F((2,), "float32", cast=True)
    rounded = field.validate("obs", np.array([0.1, 1e-60]))
    assert rounded.dtype == np.float32
    assert rounded.tolist() == [float(np.float32(0.1)), 0.0]
    assert np.isnan(field.validate("obs", np.array([np.nan, np.inf]))).tolist() == [True, False]
    assert field.validate("obs", np.array([7, 2**24])).tolist() == [7, 2**24]
    for value in (np.array([1e39, 0.0]), np.array([2**24 + 1, 0])):
        with pytest.raises(rv.SpecMismatch, match="wanted dtype float32"):
            field.validate("obs", value)
    with pytest.raises(rv.SpecMismatch, match="wanted numbers"):
        field.validate("obs", np.array([1j, 0]))
    with pytest.raises(rv.SpecMismatch, match="or this one with cast=True"):
        F((2,), "float32").validate("obs", np.array([0.1, 0.0]))


@pytest.mark.parametrize("residency", ["ram", "packed"])
def test_doubles_are_stored_as_floats_through_every_entry(residency, tmp_path):
    """obs, action, final_obs, cut and write_back of a casting field take doubles; the file keeps the option."""
    field = F((2,), "float32", cast=True)
    spec = rv.StepSpec({"x": field}, field, {"note": field})
    third = np.array([1 / 3, -2 / 3])
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(spec, 8, streams=2, seed=0, residency=residency, path=path) as buffer:
        buffer.add(obs={"x": third}, action=third, note=third, reward=0.0, terminated=True, truncated=False,
                   final_obs={"x": third})  # fmt: skip
        both = np.stack([third, third])
        buffer.add_batch(obs={"x": both}, action=both, note=both, reward=[0.0, 0.0], terminated=[True, False],
                         truncated=[False, False], final_obs={"x": np.array([third, [1e300, np.nan]])})  # fmt: skip
        buffer.cut(1, final_obs={"x": third})
        buffer.write_back(buffer.sample(5, 1), note=np.tile(third, (5, 1, 1)))
    with rv.open(path) as buffer:
        assert buffer.spec == spec
        batch = buffer.sample(30, 1)
        for array in (batch.obs["x"], batch.action, batch.extras["note"]):
            assert array.dtype == np.float32
            assert (array == third.astype(np.float32)).all()
        assert batch.obs_mask.all()


def test_a_finite_field_refuses_nan_and_infinity_through_every_entry():
    """finite=True refuses NaN and infinity; a field without it stores them; unread rows are not looked at."""
    zero, bad = np.zeros(2, np.float32), np.array([0, np.nan], np.float32)
    step = {"reward": 0.0, "truncated": False}
    for infinite in (bad, np.array([0, -np.inf], np.float32), [0.0, float("inf")]):
        plain = rv.ReplayBuffer(rv.StepSpec(F((2,), "float32"), F((), "int8")), 4, seed=0)
        plain.add(obs=infinite, action=0, terminated=True, **step)
        assert not np.isfinite(plain.sample(1, 1).obs[0, 0]).all()
        finite = F((2,), "float32", finite=True)
        buffer = rv.ReplayBuffer(rv.StepSpec(finite, finite, {"note": finite}), 4, seed=0)
        fields = {"obs": zero, "action": zero, "note": zero}
        for name in fields:
            with pytest.raises(rv.SpecMismatch, match="wanted finite numbers, got NaN or infinity; find out"):
                buffer.add(**fields | {name: infinite}, terminated=False, **step)
            with pytest.raises(rv.SpecMismatch, match="wanted finite numbers"):
                buffer.add_batch(**{key: [value] for key, value in (fields | {name: infinite}).items()}, reward=[0.0],
                                 terminated=[False], truncated=[False])  # fmt: skip
        with pytest.raises(rv.SpecMismatch, match=r"final_obs.*wanted finite numbers"):
            buffer.add(**fields, terminated=True, final_obs=infinite, **step)
        buffer.add(**fields, terminated=False, **step)
        with pytest.raises(rv.SpecMismatch, match=r"final_obs.*wanted finite numbers"):
            buffer.cut(final_obs=infinite)
        buffer.cut(final_obs=zero)
        with pytest.raises(rv.SpecMismatch, match="wanted finite numbers"):
            buffer.write_back(buffer.sample(1, 1), note=[[infinite]])
        assert len(buffer) == 1
    lanes = rv.ReplayBuffer(rv.StepSpec(F((2,), "float32", finite=True), F((), "int8")), 4, streams=2, seed=0)
    one = {"obs": [zero, zero], "action": [0, 0], "reward": [0.0, 0.0], "truncated": [False, False]}
    with pytest.raises(rv.SpecMismatch, match="wanted finite numbers"):
        lanes.add_batch(**one, terminated=[False, True], final_obs=np.array([zero, bad]))
    lanes.add_batch(
        **one, terminated=[True, False], final_obs=np.array([zero, bad])
    )  # the second row is not read


def test_options_take_part_in_equality_and_in_the_file():
    """Fields that differ in an option are different; without options the JSON is what it always was."""
    plain, cast = F((2,), "float32"), F((2,), "float32", cast=True)
    finite, both = F((2,), "float32", finite=True), F((2,), "float32", cast=True, finite=True)
    assert len({plain, cast, finite, both, F((2,), "float32", cast=False)}) == 4
    assert [repr(field) for field in (plain, cast, finite, both)] == [
        "Field((2,), 'float32')", "Field((2,), 'float32', cast=True)", "Field((2,), 'float32', finite=True)",
        "Field((2,), 'float32', cast=True, finite=True)"]  # fmt: skip
    for field in (plain, cast, finite, both):
        assert eval(repr(field), {"Field": F}) == field
        spec = rv.StepSpec({"a": field}, field, {"b": field})
        assert rv.StepSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
        for other in (plain, cast, finite, both):
            assert (rv.StepSpec({"a": other}, field, {"b": field}) == spec) == (other is field)
    assert rv.StepSpec(plain, F((), "int64")).to_json() == {
        "obs": [[2], "<f4"],
        "action": [[], "<i8"],
        "extras": {},
    }
    assert rv.StepSpec(both, cast).to_json() == {"obs": [[2], "<f4", "cast", "finite"], "action": [[2], "<f4", "cast"],
                                                "extras": {}}  # fmt: skip


def test_options_that_make_no_sense_are_refused():
    """Only floating fields can round or be finite, and the options are bools."""
    for options in ({"cast": True}, {"finite": True}):
        for dtype in ("uint8", "int64", "bool"):
            with pytest.raises(rv.BadSetting, match=r"wanted .*=True with a floating dtype only, got"):
                F((), dtype, **options)
    for value in (1, "float32", None):
        with pytest.raises(rv.BadSetting, match="with a floating dtype only, got"):
            F((), "float32", cast=value)


class Space:
    """A Box as Gymnasium has it."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)


Space.__name__ = "Box"


def test_from_env_casts_wide_spaces_on_request():
    """cast= turns floating spaces that are wider into fields that round; others stay as they are."""

    class Env:
        observation_space, action_space = Space((3,), "float64"), Space((2,), "float32")

    assert rv.StepSpec.from_env(Env) == rv.StepSpec(F((3,), "float64"), F((2,), "float32"))
    assert rv.StepSpec.from_env(Env, cast="float32") == rv.StepSpec(
        F((3,), "float32", cast=True), F((2,), "float32")
    )
    assert rv.StepSpec.from_env(Env, cast="float16").action == F((2,), "float16", cast=True)
    for cast in ("uint8", "float7", 3):
        with pytest.raises(rv.BadSetting):
            rv.StepSpec.from_env(Env, cast=cast)


# --- sizes -------------------------------------------------------------------------------------------------

SPEC = rv.StepSpec(F((), "int64"), F((), "int64"))
HUGE = (2**40, 2**48 - 1, 2**48, 2**48 + 1, 2**63, 2**70, 10**5000)


def some_steps() -> rv.ReplayBuffer:
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0)
    for step in range(30):
        buffer.add(obs=step, action=0, reward=0.0, terminated=step % 10 == 9, truncated=False)
    return buffer


def drop_in(batch_size: int = 4) -> rv.IRISReplayBuffer:
    buffer = rv.IRISReplayBuffer(10, (1, 2, 2), 2, batch_size=batch_size)
    buffer.add(np.zeros((1, 2, 2), np.uint8), 0, 0.0, True)
    return buffer


MAKERS = {
    "capacity": lambda size, where: rv.ReplayBuffer(SPEC, size, **where),
    "streams": lambda size, where: rv.ReplayBuffer(SPEC, size, streams=size, **where),
    "an axis": lambda size, where: rv.ReplayBuffer(
        rv.StepSpec(F((size,), "uint8"), F((), "int64")), 64, **where
    ),
    "two axes": lambda size, where: rv.ReplayBuffer(
        rv.StepSpec(F((size, size), "uint8"), F((), "int64")), 64, **where
    ),
}
QUESTIONS = {
    "batch": lambda size: some_steps().sample(size, 2),
    "length": lambda size: some_steps().sample(2, size, boundary="pad_both"),
    "context": lambda size: some_steps().sample(2, 2, burn_in=size),
    "rows": lambda size: some_steps().sample(size, 2, boundary="cross"),
    "single steps": lambda size: some_steps().sample_steps(size),
    "shuffled": lambda size: some_steps().sample(size, 2, sampler=rv.Shuffled()),
    "fresh": lambda size: some_steps().sample(size, 2, sampler=rv.Fresh()),
    "prioritized": lambda size: some_steps().sample(size, 2, sampler=rv.Prioritized()),
    "drop-in size": lambda size: rv.IRISReplayBuffer(size, (1, 2, 2), 2),
    "drop-in actions": lambda size: rv.IRISReplayBuffer(64, (1, 2, 2), size),
    "drop-in frame": lambda size: rv.IRISReplayBuffer(64, (size,), 2),
    "drop-in frames": lambda size: drop_in().sample_frames(size),
    "drop-in starts": lambda size: drop_in().sample_with_burn_in(size, 1),
    "drop-in context": lambda size: drop_in().sample_with_burn_in(1, size),
    "drop-in batch": lambda size: drop_in(size).sample_sequence(1),
}  # fmt: skip


@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
@pytest.mark.parametrize("name", MAKERS)
def test_buffers_of_any_size_are_too_large_before_anything_is_allocated(name, residency, tmp_path):
    """Beyond the memory a buffer is TooLarge, beyond 2**48 a bad setting; nothing is made."""
    where = {"residency": residency} | ({"path": tmp_path / "a.replay"} if residency == "disk" else {})
    for size in HUGE:
        with pytest.raises((rv.TooLarge, rv.BadSetting), match="wanted"):
            MAKERS[name](size, where)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", QUESTIONS)
def test_batches_of_any_size_are_too_large_before_anything_is_drawn(name):
    """Beyond the memory a batch is TooLarge, beyond 2**48 a bad setting, whatever sampler would draw it."""
    for size in HUGE:
        with pytest.raises((rv.TooLarge, rv.BadSetting), match="wanted"):
            QUESTIONS[name](size)


def test_a_batch_that_is_too_large_says_so_and_changes_nothing():
    """TooLarge tells what was asked for and what there is; the next batch is the one that would have come."""
    buffer, twin = some_steps(), some_steps()
    assert available_bytes() < 2**48
    with pytest.raises(
        rv.TooLarge, match=r"batch of 1,099,511,627,776 windows of 2 steps: wanted .* TB of memory, got"
    ):
        buffer.sample(2**40, 2)
    assert buffer.sample(9, 2).start.tolist() == twin.sample(9, 2).start.tolist()

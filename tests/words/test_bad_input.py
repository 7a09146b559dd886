"""Everything that is refused: each message says what was wanted, what came and the remedy, and no byte moves."""

import numpy as np
import pytest

import reverie as rv


def make() -> rv.ReplayBuffer:
    obs = {"image": rv.Field((3, 4, 4), "uint8"), "body": rv.Field((2,), "float32")}
    spec = rv.StepSpec(obs, rv.Field((), "int64"), {"logits": rv.Field((2,), "float32")})
    buffer = rv.ReplayBuffer(spec, 12, streams=3, seed=0)
    for number in range(5):
        buffer.add(**good(), stream=number % 3)
    return buffer


IMAGE = np.zeros((3, 4, 4), np.uint8)
BODY = np.zeros(2, np.float32)
OBS = {"image": IMAGE, "body": BODY}


def good(**changes) -> dict:
    return {"obs": OBS, "action": 1, "reward": 0.5, "terminated": False, "truncated": False,
            "logits": np.zeros(2, np.float32)} | changes  # fmt: skip


def good_batch(**changes) -> dict:
    obs = {"image": np.zeros((3, 3, 4, 4), np.uint8), "body": np.zeros((3, 2), np.float32)}
    return {"obs": obs, "action": np.zeros(3, np.int64), "reward": np.zeros(3), "terminated": np.zeros(3, bool),
            "truncated": np.zeros(3, bool), "logits": np.zeros((3, 2), np.float32)} | changes  # fmt: skip


def image(value) -> dict:
    return {"image": value, "body": BODY}


class Opaque:
    """Something NumPy cannot read."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("it lives on another device")


# name -> (what is added, a part of: wanted, got, remedy)
STEPS = {
    "float frame": (good(obs=image(IMAGE / 255.0)), "uint8", "float64", "before any scaling"),
    "float32 frame": (good(obs=image(IMAGE.astype(np.float32))), "uint8", "float32", "pass the frame as uint8"),
    "int64 frame": (good(obs=image(IMAGE.astype(np.int64))), "uint8", "int64", ".astype('uint8')"),
    "int8 frame": (good(obs=image(IMAGE.astype(np.int8))), "uint8", "int8", ".astype('uint8')"),
    "channels last": (good(obs=image(np.zeros((4, 4, 3), np.uint8))), "(3, 4, 4)", "(4, 4, 3)", "moveaxis"),
    "one channel": (good(obs=image(np.zeros((1, 4, 4), np.uint8))), "(3, 4, 4)", "(1, 4, 4)", "nothing is broadcast"),
    "batch axis": (good(obs=image(IMAGE[None])), "(3, 4, 4)", "(1, 3, 4, 4)", "without a batch axis"),
    "scalar frame": (good(obs=image(7)), "(3, 4, 4)", "()", "pass exactly that shape"),
    "array for dict": (good(obs=IMAGE), "['body', 'image']", "ndarray", "exactly these keys"),
    "missing key": (good(obs={"image": IMAGE}), "['body', 'image']", "['image']", "exactly these keys"),
    "extra key": (good(obs={**OBS, "depth": IMAGE}), "['body', 'image']", "'depth'", "exactly these keys"),
    "dict for array": (good(action={"left": 1}), "one array", "['left']", "pass the array alone"),
    "None frame": (good(obs=image(None)), "numbers", "NoneType", "NumPy array of numbers"),
    "string frame": (good(obs=image("frame")), "numbers", "str", "NumPy array of numbers"),
    "ragged list": (good(obs={"image": IMAGE, "body": [[1.0], [2.0, 3.0]]}), "an array", "list", "NumPy array"),
    "other device": (good(obs=image(Opaque())), "an array", "Opaque", "on the CPU"),
    "object array": (good(obs=image(np.empty((3, 4, 4), object))), "numbers", "object", "NumPy array of numbers"),
    "double body": (good(obs={"image": IMAGE, "body": np.zeros(2)}), "float32", "float64", ".astype('float32')"),
    "complex body": (good(obs={"image": IMAGE, "body": np.zeros(2, complex)}), "numbers", "complex128", "numbers"),
    "huge body": (good(obs={"image": IMAGE, "body": [1e300, 0.0]}), "float32", "float64", "check the range"),
    "masked frame": (good(obs=image(np.ma.masked_equal(IMAGE, 0))), "an array", "a masked one", ".filled()"),
    "float action": (good(action=1.0), "int64", "float64", "pass an integer"),
    "float array action": (good(action=np.float32(1)), "int64", "float32", ".astype('int64')"),
    "vector action": (good(action=np.array([1])), "()", "(1,)", "without a batch axis"),
    "huge action": (good(action=2**63), "int64", "uint64", "check the range"),
    "NaN reward": (good(reward=float("nan")), "finite", "nan", "find out where"),
    "infinite reward": (good(reward=np.inf), "finite", "inf", "find out where"),
    "reward beyond float32": (good(reward=1e39), "finite float32", "1e+39", "find out where"),
    "reward beyond any float": (good(reward=10**400), "finite float32", "inf", "find out where"),
    "masked reward": (good(reward=np.ma.masked), "one number", "masked", "pass a float"),
    "vector reward": (good(reward=np.array([1.0])), "one number", "array", "pass a float"),
    "string reward": (good(reward="1.0"), "one number", "'1.0'", "pass a float"),
    "None reward": (good(reward=None), "one number", "None", "pass a float"),
    "integer flag": (good(terminated=1), "a bool", "1", "bool(...)"),
    "float flag": (good(truncated=0.0), "a bool", "0.0", "bool(...)"),
    "None flag": (good(terminated=None), "a bool", "None", "bool(...)"),
    "flag array": (good(terminated=np.array([True])), "a bool", "array", "bool(...)"),
    "stream too large": (good(stream=3), "0..2", "3", "more streams"),
    "negative stream": (good(stream=-1), "0..2", "-1", "more streams"),
    "fractional stream": (good(stream=0.5), "0..2", "0.5", "more streams"),
    "boolean stream": (good(stream=True), "0..2", "True", "more streams"),
    "unknown field": (good(value=1.0), "['logits']", "'value'", "extras that the spec declares"),
    "missing extra": ({k: v for k, v in good().items() if k != "logits"}, "['logits']", "none for", "exactly the extras"),
    "extra of wrong shape": (good(logits=np.zeros(3, np.float32)), "(2,)", "(3,)", "nothing is broadcast"),
    "final without end": (good(final_obs=OBS), "only with an end", "terminated=False", "leave it out"),
    "final of wrong shape": (good(terminated=True, final_obs=image(IMAGE[0])), "(3, 4, 4)", "(4, 4)", "exactly that"),
    "final float": (good(terminated=True, final_obs=image(IMAGE * 1.0)), "uint8", "float64", "before any scaling"),
    "final without key": (good(truncated=True, final_obs={"body": BODY}), "['body', 'image']", "['body']", "keys"),
}  # fmt: skip

BATCHES = {
    "ragged rewards": (good_batch(reward=[[1.0], [1.0, 2.0]]), "an array", "list", "NumPy array"),
    "ragged streams": (good_batch(streams=[[1], [2, 0]]), "an array", "list", "NumPy array"),
    "lane missing": (good_batch(action=np.zeros(2, np.int64)), "(3,)", "(2,)", "exactly that shape"),
    "reward missing": (good_batch(reward=np.zeros(2)), "(3,)", "(2,)", "one reward per lane"),
    "scalar reward": (good_batch(reward=0.0), "(3,)", "()", "one reward per lane"),
    "NaN in a lane": (good_batch(reward=[0.0, float("nan"), 0.0]), "finite", "nan", "find out where"),
    "integer flags": (good_batch(terminated=np.zeros(3, int)), "bool", "int64", ".astype('bool')"),
    "float frames": (good_batch(obs={"image": np.zeros((3, 3, 4, 4)), "body": np.zeros((3, 2), np.float32)}),
                     "uint8", "float64", "before any scaling"),
    "stream twice": (good_batch(streams=[0, 1, 1]), "different integers", "[0, 1, 1]", "one step per stream"),
    "stream out of range": (good_batch(streams=[0, 1, 3]), "0..2", "3", "one step per stream"),
    "no stream": (good_batch(streams=[]), "a list of integers", "[]", "at least one"),
    "float streams": (good_batch(streams=[0.0, 1.0, 2.0]), "a list of integers", "0.0", "at least one"),
    "too few rows for the streams": (good_batch(streams=[0, 1]), "(2,", "(3,", "exactly that shape"),
    "unknown field": (good_batch(value=np.zeros(3)), "['logits']", "'value'", "extras that the spec declares"),
    "final of wrong shape": (good_batch(terminated=np.ones(3, bool), final_obs=OBS), "(3, 3, 4, 4)", "(3, 4, 4)", "exactly"),
}  # fmt: skip


def state(buffer: rv.ReplayBuffer) -> list:
    """Everything the buffer holds, as bytes."""
    columns = {**buffer.engine.store.columns, **buffer.engine.finals.columns}
    return [
        {name: column.tobytes() for name, column in columns.items()},
        buffer.episodes.tobytes(),
        len(buffer),
        [buffer.count_windows(length) for length in (1, 2, 3)],
    ]


def assert_refused(call, error, wanted, got, remedy, buffer) -> None:
    before = state(buffer)
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    sentence = message.replace("\n", " ")
    assert isinstance(caught.value, (rv.ReplayError, ValueError))
    assert "wanted" in sentence
    assert "got" in sentence
    wanted_part, rest = sentence.split("got", 1)
    assert wanted in wanted_part, message
    got_part, remedy_part = rest.split(";", 1)
    assert got in got_part, message
    assert remedy in remedy_part, message
    assert state(buffer) == before


@pytest.mark.parametrize("name", STEPS)
def test_a_bad_step_is_refused_and_changes_nothing(name):
    """add refuses a step that does not fit with wanted, got and remedy; not a byte changes."""
    step, *parts = STEPS[name]
    buffer = make()
    assert_refused(lambda: buffer.add(**step), rv.SpecMismatch, *parts, buffer)
    buffer.add(**good())


@pytest.mark.parametrize("name", BATCHES)
def test_a_bad_batch_of_steps_is_refused_and_changes_nothing(name):
    """add_batch refuses all lanes when one does not fit; not a byte changes."""
    steps, *parts = BATCHES[name]
    buffer = make()
    assert_refused(lambda: buffer.add_batch(**steps), rv.SpecMismatch, *parts, buffer)
    buffer.add_batch(**good_batch())


QUESTIONS = {
    "no rows": (lambda b: b.sample(0, 1), rv.BadSetting, "at least 1", "0", "positive whole number"),
    "negative rows": (lambda b: b.sample(-4, 1), rv.BadSetting, "at least 1", "-4", "positive whole number"),
    "fractional rows": (lambda b: b.sample(1.5, 1), rv.BadSetting, "an integer", "1.5", "positive whole number"),
    "rows beyond all bounds": (lambda b: b.sample(2**70, 1), rv.BadSetting, "at most 2**48", str(2**70), "positive"),
    "steps beyond all bounds": (lambda b: b.count_windows(2**70), rv.BadSetting, "at most 2**48", str(2**70), "positive"),
    "no steps": (lambda b: b.sample(1, 0), rv.BadSetting, "length", "0", "positive whole number"),
    "fractional steps": (lambda b: b.sample(1, 2.0), rv.BadSetting, "an integer", "2.0", "positive whole number"),
    "boolean steps": (lambda b: b.sample(1, True), rv.BadSetting, "an integer", "True", "positive whole number"),
    "longer than a stream": (lambda b: b.sample(1, 5), rv.BadSetting, "at most the 4", "5", "shorter windows"),
    "longer than any episode": (lambda b: b.sample(1, 4), rv.NotEnoughData, "4 steps", "longest episode has 1", "shorter"),
    "unknown boundary": (lambda b: b.sample(1, 1, boundary="outside"), rv.BadSetting, "inside", "'outside'", "docstring"),
    "boundary of another kind": (lambda b: b.sample(1, 1, boundary=["inside"]), rv.BadSetting, "inside", "[", "docstring"),
    "out of another kind": (lambda b: b.sample(1, 1, out={}), rv.BadSetting, "SequenceBatch", "dict", "earlier batch"),
    "out of another size": (lambda b: b.sample(2, 1, out=b.sample(1, 1)), rv.BadSetting, "(2, ", "(1, ", "same batch_size"),
    "count of nothing": (lambda b: b.count_windows(0), rv.BadSetting, "at least 1", "0", "positive whole number"),
    "single steps of nothing": (lambda b: b.sample_steps(0), rv.BadSetting, "at least 1", "0", "positive whole number"),
    "cut of no stream": (lambda b: b.cut(7), rv.SpecMismatch, "0..2", "7", "more streams"),
    "cut with a wrong final": (lambda b: b.cut(0, final_obs=image(IMAGE)| {"body": None}), rv.SpecMismatch, "numbers",
                               "NoneType", "NumPy array"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in QUESTIONS if name != "out of another size"])
def test_a_bad_question_is_refused_and_changes_nothing(name):
    """sample, count_windows and cut refuse what cannot be honoured; not a byte changes."""
    call, error, *parts = QUESTIONS[name]
    buffer = make()
    assert_refused(lambda: call(buffer), error, *parts, buffer)


def test_out_of_another_size_is_refused():
    """A batch made for other sizes cannot be filled again."""
    buffer = make()
    small = buffer.sample(1, 1)
    assert_refused(lambda: buffer.sample(2, 1, out=small), *QUESTIONS["out of another size"][1:], buffer)


SPEC = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))

MAKERS = {
    "no capacity": (lambda: rv.ReplayBuffer(SPEC, 0), rv.BadSetting, "capacity", "0", "positive"),
    "negative capacity": (lambda: rv.ReplayBuffer(SPEC, -1), rv.BadSetting, "capacity", "-1", "positive"),
    "fractional capacity": (lambda: rv.ReplayBuffer(SPEC, 1e5), rv.BadSetting, "integer", "100000.0", "positive"),
    "no stream": (lambda: rv.ReplayBuffer(SPEC, 8, streams=0), rv.BadSetting, "streams", "0", "positive"),
    "indivisible capacity": (lambda: rv.ReplayBuffer(SPEC, 10, streams=3), rv.BadSetting, "multiple", "10", "pass 9"),
    "negative seed": (lambda: rv.ReplayBuffer(SPEC, 8, seed=-1), rv.BadSetting, "seed", "-1", "pass 0 or"),
    "fractional seed": (lambda: rv.ReplayBuffer(SPEC, 8, seed=0.5), rv.BadSetting, "seed", "0.5", "pass 0 or"),
    "spec of another kind": (lambda: rv.ReplayBuffer({"obs": 1}, 8), rv.BadSetting, "StepSpec", "dict", "wrap"),
    "more than the memory": (lambda: rv.ReplayBuffer(SPEC, 10**9), rv.TooLarge, "12.30 TB", "available", "lower"),
    "axis beyond the memory": (lambda: rv.ReplayBuffer(rv.StepSpec(rv.Field((2**40, 2**40), "uint8"), rv.Field((), "int64")), 8),
                               rv.TooLarge, "TB", "available", "lower"),
    "more axes than NumPy": (lambda: rv.Field((1,) * 33, "uint8"), rv.BadSetting, "at most 32 axes", "more", "store less"),
    "axes beyond numbers": (lambda: rv.Field((2**48,) * 3, "uint8"), rv.BadSetting, "2**100 values", "more", "store less"),
    "negative axis": (lambda: rv.Field((3, -1), "uint8"), rv.BadSetting, "positive integers", "(3, -1)", "leave out"),
    "fractional axis": (lambda: rv.Field((3.0,), "uint8"), rv.BadSetting, "positive integers", "(3.0,)", "leave out"),
    "unknown dtype": (lambda: rv.Field((), "uint7"), rv.BadSetting, "dtype", "uint7", "name one"),
    "object dtype": (lambda: rv.Field((), object), rv.BadSetting, "dtype", "object", "encode"),
    "complex dtype": (lambda: rv.Field((), complex), rv.BadSetting, "dtype", "complex128", "encode"),
    "empty dict": (lambda: rv.StepSpec({}, rv.Field((), "int64")), rv.BadSetting, "non-empty", "{}", "for example"),
    "no field": (lambda: rv.StepSpec((3, 64, 64), rv.Field((), "int64")), rv.BadSetting, "a Field", "(3, 64, 64)", "write"),
    "odd key": (lambda: rv.StepSpec({"a/b": rv.Field((), "int8")}, rv.Field((), "int64")), rv.BadSetting, "letters",
                "'a/b'", "rename"),
    "taken extra": (lambda: rv.StepSpec(rv.Field((), "int8"), rv.Field((), "int8"), {"reward": rv.Field((), "int8")}),
                    rv.BadSetting, "a free name", "'reward'", "choose another"),
    "odd extra": (lambda: rv.StepSpec(rv.Field((), "int8"), rv.Field((), "int8"), {"a b": rv.Field((), "int8")}),
                  rv.BadSetting, "identifiers", "'a b'", "rename"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_setting_is_refused_when_it_is_given(name):
    """Constructors refuse what could only hurt later, memory included."""
    call, error, wanted, got, remedy = MAKERS[name]
    buffer = make()
    if error is rv.TooLarge:
        with pytest.raises(MemoryError) as caught:
            call()
        for part in (wanted, got, remedy):
            assert part in str(caught.value)
        return
    assert_refused(call, error, wanted, got, remedy, buffer)


def test_values_that_fit_are_taken():
    """Python numbers and safe casts are no bad input: nothing is lost by them."""
    buffer = make()
    buffer.add(**good(action=np.int32(3), reward=np.float64(0.25), terminated=np.bool_(True)))
    buffer.add(**good(obs={"image": IMAGE > 0, "body": [0.5, 1]}, reward=2, logits=(0.1, 0.2)), stream=1)
    buffer.add(**good(obs={"image": IMAGE.tolist(), "body": np.zeros(2, np.float16)}), stream=2)
    assert len(buffer) == 8


def test_all_256_levels_survive():
    """Every uint8 value comes back as it was stored."""
    spec = rv.StepSpec(rv.Field((256,), "uint8"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 4, seed=0)
    levels = np.arange(256, dtype=np.uint8)
    buffer.add(obs=levels, action=0, reward=0.0, terminated=True, truncated=False, final_obs=levels[::-1])
    batch = buffer.sample(2, 1)
    np.testing.assert_array_equal(batch.obs[0], [levels, levels[::-1]])

"""What things print as: a reader sees what they are and hold, not where they lie in memory."""

import inspect
import re

import numpy as np
import pytest

import reverie as rv
import reverie.errors
import reverie.exchange

SPEC = rv.StepSpec(
    {"camera": rv.Field((3, 4, 4), "uint8"), "x": rv.Field((), "float32")}, rv.Field((), "int64")
)


def filled(steps=40) -> rv.ReplayBuffer:
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0)
    for step in range(steps):
        buffer.add(
            obs={"camera": np.full((3, 4, 4), step, np.uint8), "x": step}, action=step, reward=step, terminated=step % 13 == 12,
            truncated=False, final_obs={"camera": np.zeros((3, 4, 4), np.uint8), "x": 0.0} if step % 13 == 12 else None,
        )  # fmt: skip
    return buffer


SAMPLERS = {
    "Uniform()": rv.Uniform(),
    "Uniform(where={'task': 'reach'})": rv.Uniform(where={"task": "reach"}),
    "EpisodeUniform()": rv.EpisodeUniform(),
    "Recent(newest=1000)": rv.Recent(newest=1000),
    "Recent(half_life=5.0)": rv.Recent(half_life=5),
    "Prioritized(alpha=0.5)": rv.Prioritized(alpha=0.5),
    "VisitBalanced(by='step')": rv.VisitBalanced(by="step"),
    "Shuffled(tiles=True)": rv.Shuffled(tiles=True),
    "Fresh(fallback=Prioritized())": rv.Fresh(rv.Prioritized()),
    "Mixture(parts=[(Uniform(), 0.25), (Recent(newest=9), 0.75)])": rv.Mixture(
        [(rv.Uniform(), 1), (rv.Recent(9), 3)]
    ),
}


@pytest.mark.parametrize("text", SAMPLERS)
def test_a_sampler_prints_as_the_call_that_makes_it(text):
    """Only what differs from the defaults is shown; the text makes an equal one again."""
    assert repr(SAMPLERS[text]) == text
    assert repr(eval(text, vars(rv))) == text


def test_a_condition_prints_by_its_name():
    def long_enough(episodes):
        return episodes["length"] > 100

    assert repr(rv.Uniform(where=long_enough)) == "Uniform(where=long_enough)"
    assert repr(rv.Uniform(where=lambda episodes: episodes["length"] > 1)) == "Uniform(where=<lambda>)"


def test_a_sampler_of_your_own_prints_too():
    """Arguments that it does not keep under their names are left out."""

    class Mine(rv.Sampler):
        def __init__(self, size, *, kind="a", **more):
            super().__init__(**more)
            self.kind = kind

        def draw(self, anchors, rng, count):
            raise NotImplementedError

    assert repr(Mine(4, kind="b")) == "Mine(kind='b')"


def test_a_row_of_the_table_has_names():
    """One row, and a row of a slice; it is read by name as before, and compares and travels as a record."""
    table = filled().episodes
    wanted = "EpisodeRow(stream=0, start=13, stop=26, length=13, live=13, return=247.0, ended='terminated')"
    assert repr(table[1]) == str(table[1]) == repr(table[:2][1]) == wanted
    assert table[1]["return"] == 247
    assert table[1] == np.asarray(table)[1]
    assert np.asarray(table).dtype == table.dtype


def test_no_public_object_prints_as_an_address(tmp_path):
    """Objects of every public class that a user holds."""
    buffer = filled()
    held = [
        buffer, buffer.spec, buffer.spec.action, buffer.episodes, buffer.episode(0), buffer.episodes[0], buffer.sample(2, 3),
        buffer.sample(2, 3, boundary="cross"), buffer.sample_steps(2), rv.Union([buffer]), rv.n_step(buffer.sample(2, 3), 2, 0.9),
        rv.RateLimit(8, 64), *SAMPLERS.values(),
    ]  # fmt: skip
    kinds = {type(one) for one in held}
    for name in rv.__all__:
        kind = getattr(rv, name)
        if inspect.isclass(kind) and not issubclass(kind, Exception) and not inspect.isabstract(kind):
            assert kind in kinds or "IRIS" in name, name
    for one in held:
        assert not re.search(r" object at 0x", repr(one)), type(one)
        assert len(repr(one).splitlines()[0]) < 300


def test_one_is_no_plural():
    """In what is printed and in what is refused."""
    buffer = filled(1)
    assert repr(buffer.sample(1, 1, boundary="pad_right")).startswith("SequenceBatch(1 window of 1 step:")
    assert repr(buffer.episode(0)) == "Episode(1 step, return 0, running)"
    with pytest.raises(rv.NotEnoughData, match="wanted a window of 1 step with"):
        rv.ReplayBuffer(SPEC, 9).sample(1, 1)
    assert [reverie.errors.counted(number, "step") for number in (0, 1, 2000)] == [
        "0 steps",
        "1 step",
        "2,000 steps",
    ]


def test_what_a_format_lost_agrees_with_the_number(tmp_path):
    for count, wanted in (
        (1, "1 episode runs, and will come back as cut"),
        (2, "2 episodes run, and will come back as cut"),
    ):
        buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), "int8"), rv.Field((), "int8")), 8, streams=2)
        for stream in range(count):
            buffer.add(obs=1, action=1, reward=0.0, terminated=False, truncated=False, stream=stream)
        told = []
        reverie.exchange.export_to(buffer, tmp_path / f"{count}.npz", "npz", tell=told.append)
        assert told == [wanted]


def test_a_star_brings_no_other_open():
    """`open` stays Python's own; `reverie.open` is there all the same, and so are the errors of files."""
    names: dict = {}
    exec("from reverie import *", names)
    assert "open" not in names
    assert callable(rv.open)
    assert issubclass(names["FileTaken"], FileExistsError)
    assert issubclass(names["FileMissing"], FileNotFoundError)


@pytest.mark.parametrize("name", ["next_obs", "next_observation"])
def test_the_observation_after_a_step_is_pointed_out(name):
    with pytest.raises(
        rv.SpecMismatch, match="the obs of the next step is it; where none follows, pass final_obs="
    ):
        filled(0).add(
            obs={"camera": np.zeros((3, 4, 4), np.uint8), "x": 0.0}, action=0, reward=0.0, terminated=False, truncated=False,
            **{name: 1},
        )  # fmt: skip


def test_a_float_for_an_integer_is_not_out_of_range():
    with pytest.raises(rv.SpecMismatch, match="wanted dtype int64, got float64; pass an integer"):
        filled(0).add(
            obs={"camera": np.zeros((3, 4, 4), np.uint8), "x": 0.0}, action=1.5, reward=0.0, terminated=False, truncated=False,
        )  # fmt: skip


@pytest.mark.parametrize("package", ["torch", "h5py", "minatar"])
def test_a_package_that_is_missing_is_named_with_its_remedy(package, monkeypatch):
    monkeypatch.setattr(reverie.errors, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"wanted the package {package}, got a Python without it.*pip install ."
    ) as told:
        reverie.errors.need(package)
    assert told.value.name == package

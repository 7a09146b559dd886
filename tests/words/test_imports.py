"""Importing reverie stays light, and its pages stay honest."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import reverie as rv
from reverie import errors, samplers

HEAVY = (
    "torch",
    "zstandard",
    "jax",
    "gymnasium",
    "ale_py",
    "PIL",
    "matplotlib",
    "rich",
    "tyro",
    "ray",
    "scipy",
    "tensorboard",
)


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_import_needs_numpy_alone():
    """import reverie loads no framework, none of the command line's libraries, and no compressor."""
    assert not modules_after("import reverie") & set(HEAVY)


def test_the_import_test_can_fail():
    """The check above sees a heavy module when one is loaded."""
    assert "scipy" in modules_after("import reverie, scipy") & set(HEAVY)


def test_every_public_name_is_documented():
    """Every public name has a docstring, and so has each of its public methods."""
    for name in rv.__all__:
        thing = getattr(rv, name)
        if isinstance(thing, str):
            continue
        assert inspect.getdoc(thing), name
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{name}.{attribute}"


@pytest.mark.parametrize("error", [rv.SpecMismatch, rv.BadSetting, rv.NotEnoughData])
def test_errors_are_also_the_builtin_one_would_catch(error):
    """Every error is a ReplayError and a ValueError, so both habits of catching work."""
    assert issubclass(error, (rv.ReplayError,))
    assert issubclass(error, ValueError)
    assert issubclass(rv.TooLarge, MemoryError)


def test_what_a_sampler_of_ones_own_and_a_handler_need_is_published():
    """`reverie.errors` has every error, and `reverie.samplers` all names that a sampler's own methods speak of."""
    raised = {name for name, thing in vars(errors).items() if inspect.isclass(thing)}
    assert {"FileMissing", "FileTaken"} < raised <= set(errors.__all__)
    assert {"Sampler", "Anchors", "Drawn"} <= set(samplers.__all__)
    assert issubclass(errors.FileMissing, FileNotFoundError)
    assert issubclass(errors.FileTaken, FileExistsError)


def test_a_spec_survives_json():
    """to_json and from_json are inverse, byte order and nesting included."""
    spec = rv.StepSpec(
        {"a": rv.Field((2, 3), ">u2"), "b": {"c": rv.Field((), "bool")}},
        rv.Field((4,), np.float32),
        {"value": rv.Field((), "float64")},
    )
    assert rv.StepSpec.from_json(spec.to_json()) == spec
    assert spec.obs["a"].dtype == np.uint16


def test_an_extra_field_may_take_no_name_of_a_batch():
    """What a batch holds is reserved, but for two names that extra fields in files already have."""
    free = {"anchor", "id", "tokens"}
    for name in ("obs", "action", "reward", "terminated", "truncated", "final_obs", "stream", "start", "is_first",
                 "is_last", "is_terminal", "mask", "obs_mask", "train_mask", "weight", "extras", *free):  # fmt: skip
        if name in free:
            rv.StepSpec(rv.Field((), "int8"), rv.Field((), "int8"), {name: rv.Field((), "int8")})
        else:
            with pytest.raises(rv.BadSetting, match="wanted a free name"):
                rv.StepSpec(rv.Field((), "int8"), rv.Field((), "int8"), {name: rv.Field((), "int8")})

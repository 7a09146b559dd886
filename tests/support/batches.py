"""Equal buffers to compare bridges with, and comparisons of batches."""

import numpy as np

import reverie as rv
from reverie.batch import contents

BOUNDARIES = ("inside", "pad_right", "pad_left", "pad_both", "cross")
SAMPLERS = {
    "uniform": lambda: None,
    "episodes": rv.EpisodeUniform,
    "fresh": lambda: rv.Fresh(rv.Uniform()),
    "priorities": lambda: rv.Prioritized(alpha=0.9, beta=0.6),
}


def frame_spec() -> rv.StepSpec:
    """A small frame, an action and an extra, of three dtypes."""
    return rv.StepSpec(
        rv.Field((3, 4, 4), "uint8"), rv.Field((), "int64"), {"value": rv.Field((2,), "float32")}
    )


def nested_spec() -> rv.StepSpec:
    """Observations of several dtypes and row sizes: 6, 12, 2 and 1 bytes."""
    obs = {"camera": rv.Field((2, 3), "uint8"),
           "body": {"joints": rv.Field((3,), "float32"), "count": rv.Field((), "uint16"), "touch": rv.Field((), "bool")}}  # fmt: skip
    return rv.StepSpec(obs, {"move": rv.Field((2,), "float64")})


def random_value(field, rng: np.random.Generator):
    """Return a value of a field, or a tree of values."""
    if isinstance(field, dict):
        return {key: random_value(child, rng) for key, child in field.items()}
    return rng.integers(0, 256, field.shape).astype(field.dtype)


def write(buffer: rv.ReplayBuffer, steps: int, seed: int, mean_length: float = 9.0) -> rv.ReplayBuffer:
    """Add `steps` random steps to every stream: ends with and without final observations, and cuts."""
    rng = np.random.default_rng(seed)
    spec = buffer.spec
    for _ in range(steps):
        for stream in range(buffer.streams):
            ends, final = rng.random() < 1 / mean_length, rng.random() < 0.7
            extras = {name: random_value(field, rng) for name, field in spec.extras.items()}
            buffer.add(obs=random_value(spec.obs, rng), action=random_value(spec.action, rng),
                       reward=float(rng.random()), terminated=ends, truncated=False, stream=stream,
                       final_obs=random_value(spec.obs, rng) if ends and final else None, **extras)  # fmt: skip
            if rng.random() < 0.02:
                buffer.cut(stream, final_obs=random_value(spec.obs, rng))
    return buffer


def frames(capacity: int = 120, streams: int = 2, steps: int = 100, seed: int = 0, **how) -> rv.ReplayBuffer:
    """Return a buffer of `frame_spec` that has wrapped; equal arguments give equal buffers."""
    return write(rv.ReplayBuffer(frame_spec(), capacity, streams=streams, seed=seed, **how), steps, seed)


def assert_equal(got, wanted, obs: str = "obs") -> None:
    """Assert that a batch on a device equals what `buffer.sample` gave: names, shapes, dtypes, every bit."""
    names = contents(wanted).keys()
    assert type(got) is type(wanted)
    for name in names:
        assert_same(getattr(got, name), getattr(wanted, name), name)
    for name in names - {"obs", "action", "extras"}:
        np.testing.assert_array_equal(getattr(got.host, name), getattr(wanted, name), err_msg=name)


def assert_same(got, wanted, name: str) -> None:
    """Assert that two arrays, or two trees of arrays, are equal."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), name
        for key in wanted:
            assert_same(got[key], wanted[key], f"{name}/{key}")
        return
    got = got.cpu().numpy() if hasattr(got, "cpu") else np.asarray(got)
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype), name
    assert got.tobytes() == wanted.tobytes(), name

"""JAX's feed gives the batches of `buffer.sample`, in arrays that never change, for functions compiled once."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverie as rv
from reverie.jax import feed
from support.batches import BOUNDARIES, assert_same, frame_spec, frames, nested_spec, write

NAMES = (
    "obs",
    "action",
    "reward",
    "is_first",
    "mask",
    "obs_mask",
    "train_mask",
    "weight",
    "stream",
    "anchor",
    "extras",
)
NARROW = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}


def narrow(tree):
    """As JAX keeps numbers: in 32 bits."""
    if isinstance(tree, dict):
        return {key: narrow(child) for key, child in tree.items()}
    return tree.astype(NARROW.get(tree.dtype, tree.dtype))


def assert_batch(got, wanted) -> None:
    for name in NAMES:
        assert_same(getattr(got, name), narrow(getattr(wanted, name)), name)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_batches_are_those_of_sample(boundary):
    """Content and order are those of `buffer.sample` on an equal buffer; addresses are kept in full beside."""
    twin, how = frames(), {"boundary": boundary, "burn_in": 2}
    with feed(frames(), 6, 4, sampler=rv.EpisodeUniform(), **how) as batches:
        theirs = rv.EpisodeUniform()
        for _ in range(6):
            batch, wanted = next(batches), twin.sample(6, 4, sampler=theirs, **how)
            assert isinstance(batch.reward, jax.Array)
            assert_batch(batch, wanted)
            np.testing.assert_array_equal(batch.host.anchor, wanted.anchor)
            assert batch.host.anchor.dtype == np.int64


def test_trees_arrive_as_trees():
    """Nested observations and actions come through."""
    ours, theirs = (write(rv.ReplayBuffer(nested_spec(), 60, seed=2), 60, 2) for _ in range(2))
    with feed(ours, 5, 6) as batches:
        batch, wanted = next(batches), theirs.sample(5, 6)
    assert_same(batch.obs, wanted.obs, "obs")
    assert_same(batch.action, narrow(wanted.action), "action")


def test_a_batch_never_changes():
    """Arrays that look at host memory keep it: batches that are held stay as they were while others come and go."""
    with feed(frames(), 256, 8) as batches:  # large enough for memory to be used again
        held = [next(batches) for _ in range(5)]
        copies = [np.array(batch.obs) for batch in held]
        views = [np.asarray(held[0].obs)]  # keeps its batch's memory when the batch itself is gone
        del held[0]
        first = copies.pop(0)
        gc.collect()
        for _ in range(10):
            next(batches)
        np.testing.assert_array_equal(views[0], first)
        for batch, copy in zip(held, copies, strict=True):
            np.testing.assert_array_equal(np.asarray(batch.obs), copy)


@pytest.mark.parametrize("boundary", ["inside", "cross"])
def test_a_batch_goes_through_jit_compiled_once(boundary):
    """A batch is a pytree of static shapes: a jitted function takes it whole and is traced a single time."""
    traces = []

    @jax.jit
    def total(batch):
        traces.append(1)
        return jnp.where(batch.mask, batch.reward, 0.0).sum(), jax.tree.map(jnp.flip, batch)

    twin = frames()
    with feed(frames(), 6, 4, boundary=boundary) as batches:
        for _ in range(4):
            batch, wanted = next(batches), twin.sample(6, 4, boundary=boundary)
            amount, flipped = total(batch)
            np.testing.assert_allclose(amount, wanted.reward[wanted.mask].sum(), rtol=1e-5)
            assert type(flipped) is type(batch)
            assert_same(flipped.obs, np.flip(wanted.obs), "obs")
    assert len(traces) == 1
    with pytest.raises(rv.BadSetting, match="host: wanted a batch of a feed"):
        _ = flipped.host


def test_a_device_or_sharding_may_be_named():
    """Arrays lie where they were asked to lie."""
    device = jax.devices()[0]
    for where in (device, jax.sharding.SingleDeviceSharding(device)):
        with feed(frames(), 2, 2, device=where) as batches:
            assert next(batches).obs.devices() == {device}


def test_errors_come_through():
    """NotEnoughData reaches the consumer, bad settings are refused at once, and a closed feed says so."""
    with pytest.raises(rv.BadSetting, match="boundary: wanted one of"):
        feed(frames(), 2, 2, boundary="inward")
    batches = feed(rv.ReplayBuffer(frame_spec(), 60, seed=0), 2, 2)
    with pytest.raises(rv.NotEnoughData):
        next(batches)
    batches.close()
    assert not batches._thread.is_alive()
    with pytest.raises(rv.BufferClosed):
        next(batches)

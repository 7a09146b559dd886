"""Batches on a device copy and pickle, and take what is learned home with them."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

import reverie as rv
import reverie.jax
import reverie.torch
from reverie.batch import contents, without_fields
from reverie.engine import build
from reverie.torch.tensors import views

SPEC = rv.StepSpec(rv.Field((3, 16, 16), "uint8"), rv.Field((), "int64"), {"note": rv.Field((), "float32")})


def filled(seed: int = 0) -> rv.ReplayBuffer:
    buffer = rv.ReplayBuffer(SPEC, 60, seed=seed)
    for step in range(60):
        frame = np.full((3, 16, 16), step, np.uint8)
        buffer.add(obs=frame, action=step, reward=step, terminated=step % 10 == 9, truncated=False, note=0.0)
    return buffer


def from_block(buffer, boundary, sampler):
    """As a feed to CUDA makes it: tensors that are views of one block."""
    layout = buffer.engine.layouts.get(boundary == "cross", 8, 3)
    block = torch.empty(layout.nbytes, dtype=torch.uint8)
    batch = buffer.sample(8, 3, boundary=boundary, sampler=sampler, out=layout.over(block.numpy()))
    return build(type(batch), SPEC, views(layout, block), without_fields(batch))


def from_feed(module, **where):
    def draw(buffer, boundary, sampler):
        with module.feed(buffer, 8, 3, boundary=boundary, sampler=sampler, prefetch=1, **where) as feed:
            return next(feed)

    return draw


def from_mirror(buffer, boundary, sampler):
    return reverie.torch.DeviceMirror(buffer, "cpu").sample(8, 3, boundary=boundary, sampler=sampler)


SOURCES = {
    "torch feed": from_feed(reverie.torch, device="cpu"),
    "one block": from_block,
    "mirror": from_mirror,
    "jax feed": from_feed(reverie.jax),
}
WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda batch: pickle.loads(pickle.dumps(batch)),
        "worker": lambda batch: pickle.loads(bytes(ForkingPickler.dumps(batch)))}  # fmt: skip


def arrays(batch) -> dict:
    found = contents(batch)
    return found | found.pop("extras")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("boundary", ["pad_right", "cross"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_on_a_device_travels(source, boundary, way):
    """A copied or pickled batch is equal, and its host takes priorities and values home, in torch's or JAX's arrays."""
    buffer, sampler = filled(), rv.Prioritized()
    batch = SOURCES[source](buffer, boundary, sampler)
    back = WAYS[way](batch)
    assert type(back) is type(batch)
    for name, array in arrays(batch).items():
        other = arrays(back)[name]
        assert type(other) is type(array)
        assert other.dtype == array.dtype
        assert np.array_equal(np.asarray(other), np.asarray(array)), name
    errors = back.reward * 0 + 5.0
    before = pickle.dumps(sampler.save())
    buffer.update_priorities(
        back.host, errors.requires_grad_() if isinstance(errors, torch.Tensor) else errors
    )
    assert pickle.dumps(sampler.save()) != before
    buffer.write_back(back.host, note=errors)
    other = filled()
    with pytest.raises(rv.BadSetting, match="another buffer"):
        other.update_priorities(back.host, errors)
    with pytest.raises(rv.BadSetting, match=r"pass batch\.host"):
        buffer.update_priorities(back, errors)


def test_a_batch_in_one_block_is_pickled_once():
    """Tensors that share a block do not each bring the whole block along."""
    batch = from_block(filled(), "inside", None)
    assert len(pickle.dumps(batch)) < 2 * sum(tensor.nbytes for tensor in arrays(batch).values())


def test_transposed_tensors_keep_their_values():
    """A batch whose tensors were turned in place travels as it is seen, not as it lies."""
    batch = from_block(filled(), "inside", None).map(lambda tensor: tensor.transpose(0, -1))
    for way in WAYS.values():
        back = way(batch)
        for name, tensor in arrays(batch).items():
            assert torch.equal(arrays(back)[name], tensor)


@pytest.mark.parametrize("boundary", ["pad_right", "cross"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_on_a_device_is_of_the_same_class(source, boundary):
    """Only its arrays differ; it has the ids of its steps, and what works on NumPy alone refuses it."""
    buffer = filled()
    batch, drawn = SOURCES[source](buffer, boundary, None), filled().sample(8, 3, boundary=boundary)
    assert type(batch) is type(drawn)
    assert (batch.step_ids() == drawn.step_ids()).all()
    with pytest.raises(rv.BadSetting, match=r"out: wanted 'obs' of .*, got a "):
        buffer.sample(8, 3, boundary=boundary, out=batch)
    with pytest.raises(rv.BadSetting, match=r"pass batch\.host"):
        rv.n_step(batch, 2, 0.9)
    assert len(rv.n_step(batch.host, 2, 0.9).returns) == 8


def test_a_batch_in_numpy_is_its_own_host():
    """One program serves batches in NumPy and on a device; `map` moves one to the other."""
    buffer = filled()
    drawn = buffer.sample(8, 3)
    assert drawn.host is drawn
    assert drawn.pin_memory() is drawn
    moved = drawn.map(torch.from_numpy)
    assert torch.equal(moved.obs, torch.from_numpy(drawn.obs))
    buffer.write_back(moved.host, note=moved.reward)
    np.testing.assert_array_equal(moved.host.anchor, drawn.anchor)
    assert moved.host.anchor is not drawn.anchor

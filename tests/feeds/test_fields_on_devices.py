"""Chosen fields and strides on every way to a device, and a batch's own way there."""

from __future__ import annotations

import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import reverie as rv
from reverie import jax as to_jax
from reverie.batch import contents
from reverie.errors import FieldNotRead
from reverie.torch import DeviceMirror, SequenceDataset, feed
from reverie.torch.feed import CudaCopies, Pinned
from reverie.torch.tensors import in_one_copy
from support.batches import BOUNDARIES, assert_equal, assert_same, frames, nested_spec, write

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
HOW = {"burn_in": 1, "fields": ("obs", "extras"), "stride": 2}


def assert_lacks(batch) -> None:
    """Assert that actions and rewards are missing, and say so."""
    for name in ("action", "reward"):
        with pytest.raises(FieldNotRead, match=f"add '{name}' to fields="):
            getattr(batch, name)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_feed_of_torch(device, boundary):
    """It gives what sample gives; the batch on the device lacks what was not read, and its host knows the stride."""
    buffer, twin = frames(), frames()
    with feed(buffer, 6, 4, device=device, boundary=boundary, **HOW) as batches:
        for _ in range(3):
            batch, wanted = next(batches), twin.sample(6, 4, boundary=boundary, **HOW)
            assert_equal(batch, wanted)
            assert_lacks(batch)
            assert batch.stride == batch.host.stride == 2
            assert batch.step_ids().tolist() == wanted.step_ids().tolist()
            assert_lacks(pickle.loads(pickle.dumps(batch)))
    buffer.write_back(batch.host, value=np.ones((6, 5, 2), np.float32))


def test_pinned_slots_have_the_same_fields():
    """The way to CUDA, with copies on the host: every batch has the fields that were asked for."""
    buffer, twin = frames(), frames()

    class Copies(CudaCopies):
        def __init__(self):
            pass

        def pinned(self, nbytes):
            return torch.empty(nbytes, dtype=torch.uint8)

        def upload(self, memory):
            return memory.clone(), None

        def hand_over(self, block, copied):
            pass

    layout = buffer.engine.layouts.get(False, 6, 5, fields=frozenset({"obs", "extras/value"}))
    way = Pinned(lambda out: buffer.sample(6, 4, **HOW, out=out), layout, Copies())
    for _ in range(3):
        batch, wanted = way.hand_over(way.make()), twin.sample(6, 4, **HOW)
        assert_equal(batch, wanted)
        assert_lacks(batch)
        assert batch.host.stride == 2


@pytest.mark.parametrize("boundary", ["inside", "cross"])
def test_a_feed_of_jax_and_its_pytrees(boundary):
    """As above; a jitted function takes such a batch, and one of NumPy with a dict that lacks fields."""
    twin = frames()
    with to_jax.feed(frames(), 6, 4, boundary=boundary, **HOW) as batches:
        batch, wanted = next(batches), twin.sample(6, 4, boundary=boundary, **HOW)
        assert_same(np.asarray(batch.obs), wanted.obs, "obs")
        assert_lacks(batch)
        doubled = jax.jit(lambda batch: jax.tree_util.tree_map(lambda array: array * 2, batch))(batch)
        assert_same(np.asarray(doubled.obs), wanted.obs * 2, "obs")
        assert_lacks(doubled)
        assert doubled.stride == batch.stride == 2
    nested = write(rv.ReplayBuffer(nested_spec(), 60, seed=2), 60, 2)
    part = nested.sample(4, 3, boundary=boundary, fields=("obs/camera", "obs/body/count"))
    leaves = jax.tree_util.tree_leaves(part)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert len(leaves) == len(contents(part)) - 2 + 2  # no extras; two arrays for the one "obs"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset(tmp_path, workers):
    """Workers read the fields that were asked for, and send them as they are."""
    frames(path=tmp_path / "a.replay").close()
    data = SequenceDataset(tmp_path / "a.replay", 6, 4, seed=1, batches=2, boundary="pad_both", **HOW)
    for batch in DataLoader(data, batch_size=None, num_workers=workers):
        assert batch.obs.shape == (6, 6, 3, 4, 4)
        assert batch.extras["value"].shape == (6, 5, 2)
        assert batch.stride == 2
        assert_lacks(batch)
    with pytest.raises(rv.BadSetting, match="fields: wanted several names"):
        SequenceDataset(tmp_path / "a.replay", 6, 4, fields="obs")
    with pytest.raises(rv.BadSetting, match="stride: wanted"):
        SequenceDataset(tmp_path / "a.replay", 6, 4, stride=0)
    with pytest.raises(rv.BadSetting, match=r"fields: wanted some of \['obs', "):
        next(iter(SequenceDataset(tmp_path / "a.replay", 6, 4, fields=["frames"])))


@pytest.mark.parametrize("mirrored", [("obs",), ("action",), ("obs", "action")])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_mirror(device, boundary, mirrored):
    """Whatever lies on the device, the same fields of the same steps come."""
    buffer, twin = frames(), frames()
    mirror = DeviceMirror(buffer, device, mirrored)
    for fields in (None, ("obs",), ("action", "reward"), ("extras",), ()):
        how = {"boundary": boundary, "fields": fields, "stride": 3, "burn_in": 1}
        batch, wanted = mirror.sample(9, 2, **how), twin.sample(9, 2, **how)
        assert_equal(batch, wanted)
        assert batch.host.stride == 3
        assert hasattr(batch, "reward") == hasattr(wanted, "reward")


def test_a_mirror_of_dicts_and_of_derived_values():
    """One array of a mirrored dict is enough; a derived column comes whatever the fields are."""
    spec = rv.StepSpec(
        {"camera": rv.Field((2,), "uint8"), "x": rv.Field((), "float32")}, rv.Field((), "int64")
    )
    buffer, twin = (write(rv.ReplayBuffer(spec, 60, seed=2), 60, 2) for _ in range(2))
    mirror = DeviceMirror(buffer, "cpu")
    batch, wanted = (one.sample(9, 3, fields=("obs/camera", "reward")) for one in (mirror, twin))
    assert_equal(batch, wanted)
    mirror.derive("sum", lambda obs: obs["camera"].sum(1), shape=(), dtype=torch.int64)
    batch, wanted = mirror.sample(9, 3, fields=("reward",), obs="sum"), twin.sample(9, 3)
    assert_same(batch.obs.numpy(), wanted.obs["camera"].sum(2, dtype=np.int64), "obs")
    assert not hasattr(batch, "action")


# --- a batch's own way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_goes_to_a_device(device, boundary):
    """Every array, whole batches and some fields; its host is the batch, and goes back to the buffer."""
    buffer, sampler = frames(), rv.Prioritized()
    for how in ({}, {"fields": ("obs",)}, {"stride": 2, "burn_in": 1}):
        batch = buffer.sample(6, 3, boundary=boundary, sampler=sampler, **how)
        there = batch.torch(device)
        assert_equal(there, batch)
        assert there.mask.device.type == device
        assert there.host.stride == batch.stride
        buffer.update_priorities(there.host, there.train_mask.float())
        assert_equal(there.torch("cpu"), batch)  # back again


def test_on_the_cpu_memory_is_shared():
    """What is written to a tensor is in the batch."""
    batch = frames().sample(6, 3)
    there = batch.torch()
    there.obs[0, 0] = 7
    there.reward.zero_()
    assert (batch.obs[0, 0] == 7).all()
    assert (batch.reward == 0).all()
    frozen = batch.map(lambda array: array)
    frozen.mask.flags.writeable = False
    assert frozen.torch().mask.tolist() == batch.mask.tolist()
    flipped = batch.map(lambda array: array[::-1])
    assert flipped.torch().start.tolist() == batch.start.tolist()[::-1]


def test_single_steps_go_as_a_dict():
    """A StepBatch has no form on a device: its arrays come by name."""
    batch = frames().sample_steps(5)
    there = batch.torch("cpu")
    assert there.keys() == batch.as_dict().keys()
    assert_same(there["next_obs"].numpy(), batch.next_obs, "next_obs")
    assert there["extras"]["value"].dtype == torch.float32


def test_one_block_holds_everything():
    """Arrays of all dtypes and shapes, empty ones and views too, come out of one block that was copied once."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.random((3, 5)), rng.integers(0, 255, (7,), np.uint8), np.array(3.5, np.float32), np.zeros((0, 4), np.int64),
        rng.random((4, 6))[:, ::2] > 0.5, rng.integers(0, 9, (2, 3, 4)).transpose(2, 0, 1),
    ]  # fmt: skip
    asked = []

    def allocate(nbytes):
        asked.append(nbytes)
        return torch.full((nbytes,), 255, dtype=torch.uint8)

    got = in_one_copy(arrays, allocate, torch.device("cpu"))
    assert len(asked) == 1
    assert len({tensor.untyped_storage().data_ptr() for tensor in got}) == 1
    for tensor, array in zip(got, arrays, strict=True):
        assert_same(tensor.numpy(), np.ascontiguousarray(array).reshape(array.shape), "array")


def test_what_cannot_go():
    """A device that is not there, a dtype that torch has not, and arrays of another framework."""
    with pytest.raises(rv.BadSetting, match="device: wanted one that torch can use here, got 'gpu'"):
        frames().sample(2, 2).torch("gpu")
    spec = rv.StepSpec(rv.Field((), "longdouble"), rv.Field((), "int64"))
    swapped = write(rv.ReplayBuffer(spec, 30, seed=0), 20, 0)
    for call in (
        lambda: swapped.sample(2, 2).torch(),
        lambda: feed(swapped, 2, 2, device="cpu"),
        lambda: DeviceMirror(swapped, "cpu"),
    ):
        with pytest.raises(
            rv.BadSetting, match=r"field 'obs': wanted a dtype that torch has, got float128; .* fields="
        ):
            call()
    assert swapped.sample(2, 2, fields=["action"]).torch().action.shape == (2, 2)
    with feed(swapped, 2, 2, device="cpu", fields=["action"]) as batches:
        assert next(batches).action.shape == (2, 2)
    with pytest.raises(rv.BadSetting, match="batch: wanted NumPy arrays or tensors"):
        frames().sample(2, 2).map(jax.numpy.asarray).torch()


def test_without_torch_it_says_so():
    """Where PyTorch is not installed, batches work, and their way there names the remedy."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import reverie as rv\n"
        "buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((), 'int64'), rv.Field((), 'int64')), 9)\n"
        "for step in range(5):\n"
        "    buffer.add(obs=step, action=0, reward=0.0, terminated=False, truncated=False)\n"
        "try:\n    buffer.sample(2, 2).torch()\n"
        "except rv.BadSetting as error:\n    print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "wanted PyTorch, got a Python without it; install it with: pip install 'reverie[torch]'" in shown

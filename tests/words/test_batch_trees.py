"""Batches as trees of arrays: by name, as dicts, with time first, and as DreamerV3 wants its first flags."""

import numpy as np
import pytest

import reverie as rv


@pytest.fixture
def buffer():
    spec = rv.StepSpec({"camera": rv.Field((2, 3), "uint8"), "x": rv.Field((), "float32")}, rv.Field((), "int64"),
                       {"latent": rv.Field((5,), "float32")})  # fmt: skip
    buffer = rv.ReplayBuffer(spec, 50, seed=0)
    for step in range(40):
        buffer.add(obs={"camera": np.full((2, 3), step, np.uint8), "x": step}, action=step, reward=step, latent=np.full(5, step, np.float32),
                   terminated=step % 13 == 12, truncated=False)  # fmt: skip
    return buffer


def batches(buffer):
    return [buffer.sample(4, 6), buffer.sample(4, 6, boundary="cross"), buffer.sample_steps(4)]


def test_by_name(buffer):
    """Attributes, leaves of dicts and extras; the arrays are the batch's own; a wrong name lists the right ones."""
    for batch in batches(buffer):
        assert batch["reward"] is batch.reward
        assert batch["obs"] is batch.obs
        assert batch["obs/camera"] is batch.obs["camera"]
        assert batch["extras/latent"] is batch.extras["latent"]
        for name in ("camera", "obs/depth", "reward/x", "_origin", "mask_"):
            with pytest.raises(KeyError, match=r"wanted one of \['action', "):
                batch[name]


def test_as_a_dict(buffer):
    """Every array by name, in the order of the class, and nothing else."""
    sequence, rows, single = (batch.as_dict() for batch in batches(buffer))
    assert list(sequence)[:3] == ["obs", "action", "reward"]
    assert list(sequence)[-1] == "extras"
    assert {"is_last", "is_terminal", "id"} <= rows.keys()
    assert {"next_obs", "next_obs_mask", "id"} <= single.keys()
    assert not any(name.startswith("_") for names in (sequence, rows, single) for name in names)


def test_time_first(buffer):
    """Views with the first two axes exchanged where there is a time axis; addresses of windows stay."""
    for batch in batches(buffer)[:2]:
        turned = batch.time_major()
        np.testing.assert_array_equal(turned["obs"]["camera"], np.swapaxes(batch.obs["camera"], 0, 1))
        np.testing.assert_array_equal(turned["reward"], batch.reward.T)
        np.testing.assert_array_equal(turned["extras"]["latent"], np.swapaxes(batch.extras["latent"], 0, 1))
        assert np.shares_memory(turned["reward"], batch.reward)
        for name in ("stream", "weight", "anchor"):
            assert turned[name] is getattr(batch, name)


def test_first_flags_as_dreamer_forces_them(buffer):
    """True at position 0 of every window, whatever was there; the batch itself and its priorities stay."""
    sampler = rv.Prioritized()
    for boundary in ("inside", "cross", "pad_left"):
        batch = buffer.sample(16, 6, boundary=boundary, sampler=sampler)
        before = batch.is_first.copy()
        forced = batch.first_forced()
        assert type(forced) is type(batch)
        assert forced.is_first[:, 0].all()
        np.testing.assert_array_equal(forced.is_first[:, 1:], before[:, 1:])
        np.testing.assert_array_equal(batch.is_first, before)
        assert forced.reward is batch.reward
        buffer.update_priorities(forced, np.ones(16))
    assert not before[:, 0].all()


def test_what_a_batch_shows(buffer):
    """A line for each array, with its shape and dtype."""
    sequence, rows, single = batches(buffer)
    lines = repr(sequence).splitlines()
    assert lines[0] == "SequenceBatch(4 windows of 6 steps:"
    assert "  obs/camera     (4, 7, 2, 3) uint8" in lines
    assert lines[-1] == "  extras/latent  (4, 6, 5) float32)"
    assert len(lines) == 1 + 15
    assert repr(rows).startswith("RowBatch(4 windows of 6 rows:\n  obs/camera     (4, 6, 2, 3) uint8\n")
    assert repr(single).startswith("StepBatch(4 steps:\n")


def test_step_ids_are_spelt_alike(buffer):
    """On windows, rows and single steps: the id of every step."""
    sequence, rows, single = batches(buffer)
    np.testing.assert_array_equal(sequence.step_ids(), sequence.reward)
    np.testing.assert_array_equal(single.step_ids(), single.reward)
    some = rows.step_ids() >= 0
    np.testing.assert_array_equal(rows.step_ids()[some], rows.obs["x"][some])


def test_on_a_device_as_well(buffer):
    """Tensors by name, with time first, with forced flags; dtypes are shown without the framework's name."""
    torch = pytest.importorskip("torch")
    for batch in batches(buffer)[:2]:
        tensors = batch.map(torch.as_tensor)
        assert torch.equal(tensors.time_major()["obs"]["camera"], tensors["obs/camera"].swapaxes(0, 1))
        forced = tensors.first_forced()
        assert bool(forced.is_first[:, 0].all())
        assert torch.equal(forced.is_first[:, 1:], tensors.is_first[:, 1:])
        assert "  reward         (4, 6) float32" in repr(tensors).splitlines()
    assert set(batches(buffer)[2].map(torch.as_tensor)) == set(batches(buffer)[2].as_dict())

"""Packed residency: the same answers as RAM, bit for bit, from a fraction of the bytes."""

import numpy as np
import pytest

import reverie as rv
from reverie.engine.layout import Layout
from reverie.index import RUN
from reverie.spec import Column
from reverie.store.codec import PLAIN, ZSTD, pack, unpack
from reverie.store.packed import LEAST_RUN_BYTES, is_wide
from support.buffers import fill, scalar_spec

WIDE = {"camera": rv.Field((8, 40), "uint8"), "body": rv.Field((3,), "float32")}
SPEC = rv.StepSpec(
    WIDE, rv.Field((), "int64"), {"latent": rv.Field((300,), "float32"), "value": rv.Field((), "float32")}
)


def step(number: int, rng: np.random.Generator) -> dict:
    camera = np.full((8, 40), number % 251, np.uint8)
    camera[0, :8] = rng.integers(0, 256, 8)
    body = np.array([number, -number, 0.5], np.float32)
    return {"obs": {"camera": camera, "body": body}, "action": number, "reward": float(number % 5),
            "latent": np.full(300, number, np.float32), "value": float(number)}  # fmt: skip


def pair(capacity: int, streams: int, steps: int, seed: int = 0) -> tuple[rv.ReplayBuffer, rv.ReplayBuffer]:
    """Two buffers that saw the same, one plain and one packed."""
    buffers = tuple(
        rv.ReplayBuffer(SPEC, capacity, streams=streams, seed=seed, residency=residency)
        for residency in ("ram", "packed")
    )
    rng = np.random.default_rng(seed)
    for number in range(steps):
        for stream in range(streams):
            ends = bool(rng.random() < 0.05)
            one = step(number * streams + stream, rng)
            final = step(-number, rng)["obs"] if ends and rng.random() < 0.7 else None
            for buffer in buffers:
                buffer.add(**one, terminated=ends, truncated=False, stream=stream, final_obs=final)
            if rng.random() < 0.02:
                for buffer in buffers:
                    buffer.cut(stream)
    return buffers


def assert_same(one: rv.ReplayBuffer, other: rv.ReplayBuffer, draws: int = 4) -> None:
    for boundary in ("inside", "pad_right", "pad_left", "pad_both", "cross"):
        for burn_in in (0, 3):
            for _ in range(draws):
                batches = [buffer.sample(9, 6, boundary=boundary, burn_in=burn_in) for buffer in (one, other)]
                layout = batches[0].parts.layout
                assert isinstance(layout, Layout)
                left, right = (layout.arrays(batch) for batch in batches)
                for name, array in left.items():
                    np.testing.assert_array_equal(array, right[name], err_msg=f"{boundary} {name}")
    left_steps, right_steps = one.sample_steps(20), other.sample_steps(20)
    np.testing.assert_array_equal(left_steps.next_obs["camera"], right_steps.next_obs["camera"])


@pytest.mark.parametrize(
    ("capacity", "streams"), [(RUN * 5, 1), (RUN * 5 + 3, 1), (7, 1), (1, 1), (3 * 37, 3), (2 * RUN, 2)]
)
def test_packed_gives_what_ram_gives(capacity, streams):
    """At every fill, from empty to wrapped twice, equal seeds give equal batches for every boundary."""
    for steps in (1, RUN - 1, RUN, RUN + 1, capacity // streams, 2 * capacity // streams + 5):
        if capacity // streams < 6 and steps > 1:
            continue  # too short for the windows of assert_same
        plain, packed = pair(capacity, streams, max(steps, 8), seed=steps)
        if plain.count_windows(6) and plain.count_windows(6, "cross"):
            assert_same(plain, packed)
        assert plain.episodes.tolist() == packed.episodes.tolist()


def test_batches_of_steps_are_packed_like_single_ones():
    """add_batch and add leave the same bytes."""
    plain, packed = pair(40 * 4, 4, 90)
    rng = np.random.default_rng(5)
    for number in range(50):
        ones = [step(number * 4 + lane, rng) for lane in range(4)]
        merged = {
            "obs": {key: np.stack([one["obs"][key] for one in ones]) for key in WIDE},
            **{key: np.array([one[key] for one in ones]) for key in ("action", "reward")},
            "latent": np.stack([one["latent"] for one in ones]),
            "value": np.array([one["value"] for one in ones], np.float32),
        }
        ends = rng.random(4) < 0.1
        for buffer in (plain, packed):
            buffer.add_batch(**merged, terminated=ends, truncated=np.zeros(4, bool), final_obs=merged["obs"])
    assert_same(plain, packed)


def test_written_back_values_replace_packed_ones():
    """write_back reaches runs that are sealed and runs that are being written."""
    plain, packed = pair(RUN * 6 + 5, 1, 200)
    for number in range(6):
        batches = [buffer.sample(8, 6) for buffer in (plain, packed)]
        for buffer, batch in zip((plain, packed), batches, strict=True):
            values = {
                "latent": np.full((8, 6, 300), number + 0.5, np.float32)
                + np.float32(batch.start)[:, None, None],
                "value": np.full((8, 6), number + 0.25, np.float32),
            }
            buffer.write_back(batch, **values)
        assert_same(plain, packed, draws=2)


def test_frames_that_repeat_become_small_and_noise_hardly_grows():
    """A still frame is kept once per run of 16; noise takes at most two hundredths more than its bytes."""
    spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (3, 64, 64), np.uint8)
    raw = 320 * frame.nbytes
    for make, most in (
        (lambda: frame, raw / 15),
        (lambda: rng.integers(0, 256, (3, 64, 64), np.uint8), raw * 1.02),
    ):
        buffer = rv.ReplayBuffer(spec, 320, seed=0, residency="packed")
        for number in range(320):
            buffer.add(obs=make(), action=number, reward=0.0, terminated=False, truncated=False)
        assert buffer.engine.store._chunks.nbytes <= most


def test_a_sample_decides_whether_packing_is_tried():
    """Noise stays plain; what repeats, has few values, or is noise in parts only, is packed as before."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (RUN, 3, 64, 64), np.uint8)
    assert pack(noise) == PLAIN + noise.tobytes()
    same = np.repeat(noise[:1], RUN, axis=0)  # the frame of a game that stands still
    few = noise % 16
    normal = rng.normal(size=(RUN, 3, 64, 64)).astype(np.float32)  # whose exponents are few
    half = noise.copy()
    half[:, :, 32:] = 7
    flat = rng.integers(0, 256, RUN * 3 * 64 * 64, np.uint8).view(np.uint32) >> np.uint32(16)
    for run, most in ((same, 0.05), (few, 0.6), (normal, 0.95), (half, 0.6), (flat, 0.7)):
        packed = pack(run)
        assert packed[:1] == ZSTD
        assert len(packed) < most * run.nbytes
        assert np.array_equal(unpack(packed, run.shape, run.dtype), run)


def test_nbytes_follows_what_is_packed():
    """nbytes counts what is held now, runs that were evicted no more, and repr says that it is packed."""
    spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 10 * RUN, seed=0, residency="packed")
    rng = np.random.default_rng(0)
    sizes = []
    for number in range(60 * RUN):
        noise = rng.integers(0, 256, (3, 64, 64), np.uint8)
        ends = number % 10 == 9
        buffer.add(
            obs=noise,
            action=0,
            reward=0.0,
            terminated=ends,
            truncated=False,
            final_obs=noise if ends else None,
        )
        sizes.append(buffer.nbytes)
    assert max(sizes[20 * RUN :]) <= 1.05 * sizes[12 * RUN]
    chunks = buffer.engine.store._chunks
    assert chunks.nbytes == 8 * len(chunks._runs) + sum(len(run["obs"]) for run in chunks._runs if run)
    assert "packed" in repr(buffer)


def test_narrow_columns_are_not_packed():
    """What gains nothing by packing stays in plain arrays."""
    assert not is_wide(Column("reward", rv.Field((), "float32")))
    assert is_wide(Column("obs", rv.Field((LEAST_RUN_BYTES // RUN,), "uint8")))
    buffer = rv.ReplayBuffer(scalar_spec(), 100, seed=0, residency="packed")
    twin = fill(buffer, 150, 9.0, seed=1)
    batch = buffer.sample(50, 4)
    assert {*zip(batch.stream.tolist(), batch.start.tolist(), strict=True)} <= twin.windows(4)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "bool", "float64"])
def test_a_run_survives_packing(dtype):
    """pack and unpack are inverse for runs that shrink and for runs that do not."""
    rng = np.random.default_rng(0)
    for run, tag in (
        (np.zeros((16, 50), dtype), ZSTD),
        (rng.integers(0, 2**62, (16, 50)).astype(dtype), None),
    ):
        packed = pack(run)
        assert len(packed) <= run.nbytes + 1
        assert packed[:1] in (PLAIN, ZSTD)
        assert tag is None or packed[:1] == tag
        np.testing.assert_array_equal(unpack(packed, run.shape, run.dtype), run)


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_helpers_unpack_every_run_once(cores):
    """However many cores share the work, the batch is the same, and an error in a helper is passed on."""
    plain, packed = pair(RUN * 30, 1, 700)
    packed.engine.store._helpers._cores = cores
    assert_same(plain, packed, draws=2)
    for run in packed.engine.store._chunks._runs:
        if run is not None:
            run["obs/camera"] = b"\x01broken"
    with pytest.raises(rv.FileError, match="no zstd frame"):
        packed.sample(64, 6)


def test_another_residency_is_refused():
    """An unknown residency is refused when it is given."""
    with pytest.raises(rv.BadSetting, match=r"wanted one of .*'disk'.*, got 'tape'; choose"):
        rv.ReplayBuffer(SPEC, 10, residency="tape")

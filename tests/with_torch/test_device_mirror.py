"""A mirror gives what `buffer.sample` gives, uploads what is new and nothing twice, and keeps derived values."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.torch import DeviceMirror
from support.batches import (
    BOUNDARIES,
    SAMPLERS,
    assert_equal,
    assert_same,
    frame_spec,
    frames,
    nested_spec,
    write,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FIELDS = [("obs",), ("action",), ("obs", "action")]


def sums(observations: torch.Tensor) -> torch.Tensor:
    """Tokens of a frame: the sum of each of its channels, never 0."""
    return observations.to(torch.int64).sum((2, 3)) + 1


class Tokenizer:
    """Maps frames to `sums` plus an offset, and counts the frames it has seen."""

    def __init__(self) -> None:
        self.offset = 0
        self.seen = 0
        self.most = 0

    def __call__(self, observations: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.seen += len(observations)
        self.most = max(self.most, len(observations))
        return sums(observations) + self.offset


def tokens_of(batch, offset: int = 0) -> np.ndarray:
    """What the batch of an equal buffer says the tokens are: those of its frames, zero on padding."""
    obs = torch.from_numpy(batch.obs)
    tokens = sums(obs.flatten(0, 1)).view(*obs.shape[:2], 3).numpy() + offset
    if isinstance(batch, rv.RowBatch):
        return np.where(batch.mask[:, :, None], tokens, 0)
    # A frame stands at every step, and one position after the last one, known or repeated.
    stands = np.zeros(batch.obs_mask.shape, np.bool_)
    stands[:, :-1] |= batch.mask
    stands[:, 1:] |= batch.mask
    return np.where(stands[:, :, None], tokens, 0)


# --- equal to buffer.sample ----------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_batches_are_those_of_sample(boundary, sampler, device):
    """Under every boundary and sampler, while steps come and go, every array equals an equal buffer's."""
    ours, theirs, how = frames(steps=20), frames(steps=20), {"boundary": boundary, "burn_in": 2}
    mine, other = SAMPLERS[sampler](), SAMPLERS[sampler]()
    mirror = DeviceMirror(ours, device, ("obs", "action"))
    for seed in range(6):
        batch = mirror.sample(8, 4, sampler=mine, **how)
        assert batch.obs.device.type == device
        assert_equal(batch, theirs.sample(8, 4, sampler=other, **how))
        for buffer in (ours, theirs):
            write(buffer, 17, seed)


@pytest.mark.parametrize("residency", ["ram", "packed"])
@pytest.mark.parametrize("fields", FIELDS)
def test_every_choice_of_fields(fields, residency):
    """Trees of fields with rows of 1, 2, 6, 12 and 16 bytes, mirrored in part or whole, from either residency."""

    def buffer():
        return write(rv.ReplayBuffer(nested_spec(), 90, streams=3, seed=1, residency=residency), 50, 1)

    ours, theirs = buffer(), buffer()
    mirror = DeviceMirror(ours, "cpu", fields)
    for boundary in BOUNDARIES:
        assert_equal(mirror.sample(9, 5, boundary=boundary), theirs.sample(9, 5, boundary=boundary))


def test_a_reader_is_mirrored(tmp_path):
    """A mirror of a file that another buffer writes to sees its news, final observations and derived values too."""
    path = tmp_path / "a.replay"
    with write(rv.ReplayBuffer(frame_spec(), 120, streams=2, seed=4, path=path), 30, 4) as writer:
        writer.flush()
        mine, other = (rv.open(path, residency=residency, mode="r", seed=0) for residency in ("disk", "ram"))
        mirror = DeviceMirror(mine, "cpu")
        mirror.derive("tokens", sums, shape=(3,), dtype=torch.int64)
        for seed, boundary in enumerate(BOUNDARIES):
            assert_equal(mirror.sample(8, 4, boundary=boundary), other.sample(8, 4, boundary=boundary))
            tokens = mirror.sample(8, 4, boundary=boundary, obs="tokens").obs
            assert_same(tokens, tokens_of(other.sample(8, 4, boundary=boundary)), "tokens")
            write(writer, 25, seed)
            writer.flush()
        assert mirror.uploaded == 2 * (30 + 4 * 25)
        mine.close()
        other.close()


def test_the_next_batch_of_a_file_counts_the_mirror_s(tmp_path):
    """What a mirror drew, and its sampler, are remembered in the file: after a resume comes what would have come."""
    drawn = []
    for through_mirror in (True, False):
        path = tmp_path / f"{through_mirror}.replay"
        with write(rv.ReplayBuffer(frame_spec(), 120, seed=4, path=path), 60, 4) as buffer:
            source = DeviceMirror(buffer, "cpu") if through_mirror else buffer
            sampler = rv.Shuffled()
            once = source.sample(8, 4, sampler=sampler).anchor.tolist()
        with rv.open(path) as buffer:
            drawn.append([once, buffer.sample(8, 4, sampler=rv.Shuffled()).anchor.tolist()])
    assert drawn[0] == drawn[1]
    assert not set(drawn[0][0]) & set(drawn[0][1])  # without replacement


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 20), st.sampled_from([1.5, 4.0, 50.0])),
        st.tuples(st.just("sample"), st.integers(1, 6), st.sampled_from(BOUNDARIES)),
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    ops=OPS,
    streams=st.integers(1, 3),
    kept=st.integers(2, 12),
    burn_in=st.integers(0, 3),
    tokens=st.booleans(),
)
def test_any_history(ops, streams, kept, burn_in, tokens):
    """Whatever was added, evicted and drawn before, frames and derived values equal those of an equal buffer."""
    ours, theirs = (rv.ReplayBuffer(frame_spec(), streams * kept, streams=streams, seed=5) for _ in range(2))
    mirror = DeviceMirror(ours, "cpu")
    mirror.derive("tokens", sums, shape=(3,), dtype=torch.int64)
    for number, (what, count, how) in enumerate(ops):
        if what == "write":
            for buffer in (ours, theirs):
                write(buffer, count, number, mean_length=how)
            continue
        try:
            wanted = theirs.sample(4, count, boundary=how, burn_in=burn_in)
        except (rv.NotEnoughData, rv.BadSetting) as error:
            with pytest.raises(type(error)):
                mirror.sample(4, count, boundary=how, burn_in=burn_in)
            continue
        if tokens:
            got = mirror.sample(4, count, boundary=how, burn_in=burn_in, obs="tokens")
            assert_same(got.obs, tokens_of(wanted), "tokens")
            assert_same(got.action, wanted.action, "action")
        else:
            assert_equal(mirror.sample(4, count, boundary=how, burn_in=burn_in), wanted)


def test_a_batch_is_yours():
    """What the mirror gave does not change when the buffer wraps and the mirror follows."""
    buffer = frames()
    mirror = DeviceMirror(buffer, "cpu")
    held = [mirror.sample(8, 4) for _ in range(3)]
    copies = [batch.map(torch.clone) for batch in held]
    write(buffer, 200, 9)
    mirror.sample(8, 4).obs.fill_(7)
    for batch, copy in zip(held, copies, strict=True):
        assert torch.equal(batch.obs, copy.obs)
        assert torch.equal(batch.reward, copy.reward)


def test_host_takes_write_back():
    """`batch.host` is an address that the buffer understands; what it writes is in later batches."""
    buffer = frames()
    mirror = DeviceMirror(buffer, "cpu")
    batch = mirror.sample(200, 2)
    buffer.write_back(batch.host, value=np.full((200, 2, 2), 3.0, np.float32))
    assert (mirror.sample(200, 2).extras["value"] == 3.0).any()


def test_eviction_while_in_use():
    """While another thread adds and evicts, frames still count up by one, to their successor."""
    spec = rv.StepSpec(rv.Field((8,), "int64"), rv.Field((), "int64"))
    buffer, number, stop = rv.ReplayBuffer(spec, 40, seed=0), 0, threading.Event()
    mirror = DeviceMirror(buffer, "cpu", ("obs", "action"))
    mirror.derive("half", lambda obs: obs[:, 0] // 2, shape=(), dtype=torch.int64)

    def add():
        nonlocal number
        ends = number % 13 == 12
        buffer.add(obs=np.full(8, number), action=number, reward=0.0, terminated=ends, truncated=False,
                   final_obs=np.full(8, number + 1) if ends else None)  # fmt: skip
        number += 1

    def go_on():
        while not stop.wait(1e-4):  # lets go of the lock between two steps
            add()

    for _ in range(50):
        add()
    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        for turn in range(150):
            batch = mirror.sample(8, 6, obs="half" if turn % 2 else "obs")
            wanted = batch.start[:, None] + torch.arange(7)
            assert torch.equal(batch.action, wanted[:, :6])
            assert torch.equal(
                batch.obs if turn % 2 else batch.obs[:, :, 0], wanted // 2 if turn % 2 else wanted
            )
    finally:
        stop.set()
        writer.join()


# --- uploads -------------------------------------------------------------------------------------------


def test_only_what_is_new_is_uploaded():
    """Each step travels once; after more than a lap, one lap of them; with nothing new, nothing."""
    buffer = frames(capacity=60, streams=2, steps=10)
    mirror = DeviceMirror(buffer, "cpu")
    assert mirror.uploaded == 0
    for steps, uploaded in ((0, 20), (0, 20), (3, 26), (30, 86), (31, 146), (500, 206)):
        write(buffer, steps, steps)
        mirror.sample(2, 1, boundary="pad_right")
        assert mirror.uploaded == uploaded
    write(buffer, 1, 0)
    mirror.update()
    assert mirror.uploaded == 208


def test_streams_of_different_ages():
    """A stream that stands still is not uploaded again because another one goes on."""
    buffer = rv.ReplayBuffer(frame_spec(), 40, streams=2, seed=0)
    mirror, frame = DeviceMirror(buffer, "cpu"), np.zeros((3, 4, 4), np.uint8)
    for number in range(70):
        buffer.add(obs=frame + number, action=number, reward=0.0, terminated=False, truncated=False,
                   stream=int(number < 5), value=np.zeros(2, np.float32))  # fmt: skip
        batch = mirror.sample(9, 1, boundary="pad_right")
        assert torch.equal(batch.obs[:, 0, 0, 0, 0].to(torch.int64), batch.action[:, 0])
    assert mirror.uploaded == 70


def test_a_failed_upload_is_made_again(monkeypatch):
    """When the device refuses, the error comes out and nothing is taken for uploaded."""
    ours, theirs = frames(), frames()
    mirror = DeviceMirror(ours, "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(mirror, "_staged", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
        with pytest.raises(torch.OutOfMemoryError):
            mirror.update()
    assert_equal(mirror.sample(8, 4), theirs.sample(8, 4))


def test_the_first_upload_comes_in_parts(monkeypatch):
    """What is staged on the host at a time is bounded, whatever the buffer holds."""
    monkeypatch.setattr("reverie.torch.mirror.UPLOAD_BYTES", 7 * 48)  # frames have 48 bytes
    ours, theirs = frames(), frames()
    mirror, parts = DeviceMirror(ours, "cpu"), []
    staged = mirror._staged
    mirror._staged = lambda block, field, count: (parts.append(count), staged(block, field, count))[1]
    assert_equal(mirror.sample(8, 4), theirs.sample(8, 4))
    assert max(parts) == 7
    assert sum(parts) == 120


def test_size_is_known():
    """`nbytes` counts the ring's rows on the device, final observations and derived columns."""
    mirror = DeviceMirror(rv.ReplayBuffer(frame_spec(), 100, seed=0), "cpu")
    assert mirror.nbytes == 101 * 48
    mirror.derive("tokens", sums, shape=(3,), dtype=torch.int64)
    assert mirror.nbytes == 101 * (48 + 24)


# --- derived columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_derived_values_stand_in_place_of_frames(boundary):
    """Tokens are those of the frames that would have come, final observations included; zero on padding."""
    ours, theirs = frames(), frames()
    mirror = DeviceMirror(ours, "cpu")
    mirror.derive("tokens", sums, shape=(3,), dtype=torch.int64)
    for seed in range(4):
        batch = mirror.sample(16, 5, boundary=boundary, burn_in=1, obs="tokens")
        wanted = theirs.sample(16, 5, boundary=boundary, burn_in=1)
        assert_same(batch.obs, tokens_of(wanted), "tokens")
        for name in ("action", "reward", "obs_mask", "anchor", "extras"):
            assert_same(getattr(batch, name), getattr(wanted, name), name)
        for buffer in (ours, theirs):
            write(buffer, 13, seed)


def test_only_missing_values_are_made():
    """Each observation is mapped once, when a batch first needs it; new ones and final ones when they come."""
    buffer, tokenizer = frames(capacity=30, streams=1, steps=30), Tokenizer()
    mirror = DeviceMirror(buffer, "cpu")
    mirror.derive("tokens", tokenizer, shape=(3,), dtype=torch.int64)
    mirror.sample(4, 3)
    assert tokenizer.seen == 0  # frames were asked for
    mirror.sample(1, 3, obs="tokens")
    assert 1 <= tokenizer.seen <= 4  # as many as the window shows
    mirror.update("tokens")
    finals = int((buffer.engine.index.final_slot[buffer.engine.index.live_episodes()] >= 0).sum())
    assert finals > 0
    assert tokenizer.seen == 30 + finals
    for _ in range(20):
        mirror.sample(8, 3, obs="tokens")
    assert tokenizer.seen == 30 + finals
    buffer.cut()
    before = tokenizer.seen
    for number in range(5):
        buffer.add(obs=np.full((3, 4, 4), number, np.uint8), action=0, reward=0.0, terminated=number == 4,
                   truncated=False, value=np.zeros(2, np.float32),
                   final_obs=np.zeros((3, 4, 4), np.uint8) if number == 4 else None)  # fmt: skip
    mirror.update("tokens")
    assert tokenizer.seen == before + 6  # five steps and one final observation


def test_touched_values_are_made_again():
    """After `touch`, and only then, values come from the function as it is now, those of final observations too."""
    ours, theirs, tokenizer = frames(), frames(), Tokenizer()
    mirror = DeviceMirror(ours, "cpu")
    mirror.derive("tokens", tokenizer, shape=(3,), dtype=torch.int64)
    mirror.update("tokens")
    for offset, shown in ((100, 0), (200, 200)):
        tokenizer.offset = offset
        if offset == shown:
            mirror.touch("tokens")
        for _ in range(10):
            wanted = tokens_of(theirs.sample(16, 4, boundary="pad_both"), shown)
            assert_same(mirror.sample(16, 4, boundary="pad_both", obs="tokens").obs, wanted, "tokens")


def test_many_observations_are_mapped_in_parts():
    """The function never gets more than 1024 observations at once."""
    buffer, tokenizer = frames(capacity=2500, streams=1, steps=2500), Tokenizer()
    mirror = DeviceMirror(buffer, "cpu")
    mirror.derive("tokens", tokenizer, shape=(3,), dtype=torch.int64)
    mirror.update("tokens")
    assert tokenizer.seen > 2500
    assert tokenizer.most == 1024


def test_trees_of_observations_are_mapped_as_trees():
    """The function of a nested observation gets the same dict of tensors, in their own dtypes."""
    ours, theirs = (write(rv.ReplayBuffer(nested_spec(), 60, seed=2), 60, 2) for _ in range(2))
    mirror = DeviceMirror(ours, "cpu")
    mirror.derive("joints", lambda obs: obs["body"]["joints"].bfloat16(), shape=(3,), dtype=torch.bfloat16)
    got = mirror.sample(8, 4, obs="joints").obs
    wanted = torch.from_numpy(theirs.sample(8, 4).obs["body"]["joints"]).bfloat16()
    assert torch.equal(got, wanted)


def test_a_function_that_breaks_its_word_is_told():
    """Values of another shape or dtype than `derive` was told are refused, and nothing is kept."""
    mirror = DeviceMirror(frames(), "cpu")
    mirror.derive("tokens", lambda obs: sums(obs)[:, :2], shape=(3,), dtype=torch.int64)
    with pytest.raises(
        rv.SpecMismatch, match=r"'tokens': wanted torch.int64 of shape \(\d+, 3\), got .*, 2\)"
    ):
        mirror.sample(2, 2, obs="tokens")
    mirror.derive("floats", lambda obs: sums(obs).float(), shape=(3,), dtype=torch.int64)
    with pytest.raises(rv.SpecMismatch, match=r"got torch\.float32"):
        mirror.sample(2, 2, obs="floats")


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [(), "obs", ("reward",), ("obs", "extras/value")])
def test_other_fields_are_refused(fields):
    """Only observations and actions never change once they are added."""
    with pytest.raises(rv.BadSetting, match="fields: wanted some of"):
        DeviceMirror(frames(), "cpu", fields)


def test_bad_settings_are_refused():
    """Wrong arguments are told as `buffer.sample` tells them; nothing is drawn."""
    ours, theirs = frames(), frames()
    mirror = DeviceMirror(ours, "cpu")
    for message, call in {
        "buffer: wanted": lambda: DeviceMirror([], "cpu"),
        "device: wanted": lambda: DeviceMirror(ours, "nowhere"),
        "boundary: wanted": lambda: mirror.sample(2, 2, boundary="inward"),
        "length: wanted": lambda: mirror.sample(2, 0),
        "batch_size: wanted": lambda: mirror.sample(0, 2),
        "burn_in: wanted": lambda: mirror.sample(2, 2, burn_in=-1),
        "sampler: wanted": lambda: mirror.sample(2, 2, sampler="uniform"),
        "obs: wanted 'obs' or a derived column": lambda: mirror.sample(2, 2, obs="tokens"),
        "call derive first": lambda: mirror.touch("tokens"),
        "name: wanted a new name": lambda: mirror.derive("obs", sums, shape=(3,), dtype=torch.int64),
        "add 'obs' to its fields": lambda: DeviceMirror(ours, "cpu", ("action",)).derive(
            "tokens", sums, shape=(3,), dtype=torch.int64
        ),
    }.items():
        with pytest.raises(rv.BadSetting, match=message):
            call()
    assert_equal(mirror.sample(2, 2), theirs.sample(2, 2))


def test_too_little_data_is_told():
    """An empty buffer gives NotEnoughData, and a closed one BufferClosed, as `sample` does."""
    buffer = rv.ReplayBuffer(frame_spec(), 60, seed=0)
    mirror = DeviceMirror(buffer, "cpu")
    mirror.update()
    with pytest.raises(rv.NotEnoughData):
        mirror.sample(2, 2)
    write(buffer, 30, 0)
    assert len(mirror.sample(2, 2)) == 2
    buffer.close()
    with pytest.raises(rv.BufferClosed):
        mirror.sample(2, 2)

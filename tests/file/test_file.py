"""A buffer with a path: everything comes back, and the next batch is the one that would have come."""

import gc
import os

import numpy as np
import pytest

import reverie as rv
from reverie.index import RUN
from support.buffers import fill, rich_spec, rich_step, scalar_spec

RESIDENCIES = ("ram", "packed", "disk")
WIDE = rv.StepSpec(
    {"camera": rv.Field((3, 8, 8), "uint8"), "body": rv.Field((2,), "float32")},
    rv.Field((), "int64"),
    {"latent": rv.Field((64,), "float32"), "value": rv.Field((), "float32")},
)


def wide_obs(number: int) -> dict:
    camera = np.full((3, 8, 8), number % 251, np.uint8)
    camera[0, 0] = number % 7
    return {"camera": camera, "body": np.array([number, -number], np.float32)}


def samplers() -> list[rv.Sampler]:
    """One sampler of each kind that remembers something."""
    return [
        rv.Prioritized(),
        rv.VisitBalanced(2.0),
        rv.VisitBalanced(1.0, by="step"),
        rv.Shuffled(),
        rv.Fresh(),
        rv.Mixture([(rv.Uniform(), 1.0), (rv.Prioritized(alpha=0.3), 2.0)]),
    ]


class Twins:
    """A buffer in a file, and one in memory alone that sees the same; `check` compares what they answer."""

    def __init__(self, path, streams: int, seed: int, **settings):
        capacity = 5 * RUN // 2 * streams
        self.path = path
        self.kept = rv.ReplayBuffer(WIDE, capacity, streams=streams, seed=seed, path=path, **settings)
        self.plain = rv.ReplayBuffer(WIDE, capacity, streams=streams, seed=seed)
        self.kept_samplers, self.plain_samplers = samplers(), samplers()
        self.rng = np.random.default_rng(seed)
        self.number = 0

    def both(self, method: str, **arguments) -> None:
        for buffer in (self.kept, self.plain):
            getattr(buffer, method)(**arguments)

    def add(self, steps: int) -> None:
        """Add steps to random streams, in random episodes, some cut; or to all streams at once."""
        streams = self.plain.streams
        for _ in range(steps):
            self.number += 1
            ends, cuts, lanes = self.rng.random(3) < (0.1, 0.02, 0.2)
            final = wide_obs(self.number + 5) if self.rng.random() < 0.5 else None
            step = {"obs": wide_obs(self.number), "action": self.number, "reward": self.number % 7 / 3,
                    "latent": np.full(64, self.number, np.float32), "value": np.float32(self.number)}  # fmt: skip
            if lanes:
                many = {name: np.stack([value] * streams) for name, value in step.items() if name != "obs"}
                many["obs"] = {name: np.stack([value] * streams) for name, value in step["obs"].items()}
                truncated = self.rng.random(streams) < 0.1
                self.both("add_batch", **many, terminated=np.zeros(streams, bool), truncated=truncated,
                          final_obs=many["obs"] if final else None)  # fmt: skip
                continue
            stream = int(self.rng.integers(streams))
            self.both("add", **step, stream=stream, terminated=bool(ends), truncated=False,
                      final_obs=final if ends else None)  # fmt: skip
            if cuts:
                self.both("cut", stream=stream, final_obs=final)

    def check(self) -> None:
        """Draw with every sampler, learn from it, and compare."""
        np.testing.assert_array_equal(self.kept.episodes, self.plain.episodes)
        boundary = str(self.rng.choice(["inside", "pad_right", "pad_both", "cross"]))
        for kept, plain in zip(self.kept_samplers, self.plain_samplers, strict=True):
            batches = [
                buffer.sample(6, 4, boundary=boundary, sampler=sampler)
                for buffer, sampler in ((self.kept, kept), (self.plain, plain))
            ]
            assert_same_batch(*batches)
            ids = batches[0].step_ids()
            latent = np.repeat(ids[..., None], 64, -1).astype(np.float32) + 0.5
            for buffer, batch in zip((self.kept, self.plain), batches, strict=True):
                buffer.write_back(batch, latent=latent)
                if "Prioritized" in repr(type(kept)) or isinstance(kept, rv.Mixture):
                    buffer.update_priorities(batch, np.abs(np.sin(batch.anchor)))
        assert_same_batch(self.kept.sample(8, 3), self.plain.sample(8, 3))

    def reopen(self, residency: str | None) -> None:
        self.kept.close()
        self.kept = rv.open(self.path, residency, episodes="continue")
        self.kept_samplers = samplers()


def assert_same_batch(kept, plain) -> None:
    """Assert that two batches are equal bit for bit."""
    for name, array in plain.parts.layout.arrays(plain).items():
        other = kept.parts.layout.arrays(kept)[name]
        assert other.dtype == array.dtype, name
        np.testing.assert_array_equal(other, array, err_msg=name)


@pytest.mark.parametrize("durability", ["step", "chunk"])
@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("streams", [1, 3])
def test_the_next_batch_is_the_one_that_would_have_come(tmp_path, residency, durability, streams):
    """Closed and opened again after any number of steps, a buffer answers as if nothing had happened."""
    twins = Twins(tmp_path / "a.replay", streams, 1, residency=residency, durability=durability)
    for turn in range(7):
        twins.add(40 if turn else 9)
        twins.check()
        twins.reopen(None)
        assert twins.kept.residency == residency
        twins.check()
    twins.kept.close()


def test_a_sampler_that_nobody_holds_any_more_is_saved(tmp_path):
    """Priorities outlive the function that made their sampler, to the next resume."""
    with rv.ReplayBuffer(scalar_spec(), 50, seed=0, path=tmp_path / "a.replay") as buffer:
        fill(buffer, 40, 5.0, seed=0)

        def train() -> None:
            sampler = rv.Prioritized(alpha=1.0)
            for batch in (buffer.sample(64, 1, sampler=sampler) for _ in range(5)):
                buffer.update_priorities(batch, np.where(batch.anchor == 7, 1.0, 0.0))

        train()
        gc.collect()
    with rv.open(tmp_path / "a.replay") as buffer:
        drawn = buffer.sample(100, 1, sampler=rv.Prioritized(alpha=1.0)).anchor
        assert (drawn == 7).mean() > 0.5


def test_another_residency_gives_the_same_batches(tmp_path):
    """Opened as RAM, packed and disk in turn, samplers, random state and priorities included."""
    twins = Twins(tmp_path / "a.replay", 2, 3)
    for residency in ("packed", "disk", "ram", "disk", "packed", "ram"):
        twins.add(50)
        twins.check()
        twins.reopen(residency)
    twins.check()
    twins.kept.close()


@pytest.mark.parametrize("steps", [0, 1, RUN - 1, RUN, RUN + 1, 3 * RUN, 7 * RUN + 3])
@pytest.mark.parametrize("capacity", [1, 5, RUN, RUN + 1, 4 * RUN])
def test_every_fill_comes_back(tmp_path, capacity, steps):
    """At seals, wraps and short rings, flushed or not, reopened by a writer and by a reader."""
    for durability in ("step", "chunk"):
        path = tmp_path / f"{durability}.replay"
        buffer = rv.ReplayBuffer(scalar_spec(), capacity, seed=0, path=path, durability=durability)
        twin = fill(buffer, steps, 6.0, seed=1)
        wanted = buffer.episodes
        buffer.flush()
        with rv.open(path, mode="r") as reader:
            np.testing.assert_array_equal(reader.episodes, wanted)
        buffer.close()
        for residency in RESIDENCIES:
            with rv.open(path, residency) as again:
                np.testing.assert_array_equal(again.episodes, wanted)
                if twin.windows(1):
                    batch = again.sample(64, 1)
                    np.testing.assert_array_equal(batch.obs[:, 0], batch.start)
                    assert {*zip(batch.stream.tolist(), batch.start.tolist(), strict=True)} <= twin.windows(1)


def test_steps_of_every_kind_come_back(tmp_path):
    """Nested observations, several dtypes and extras, from a file written step by step."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(rich_spec(), 200, seed=0, path=path) as buffer:
        for number in range(90):
            buffer.add(**rich_step(number))
    with rv.open(path, mode="r") as buffer:
        assert buffer.spec == rich_spec()
        batch = buffer.sample_steps(100)
        for row, number in enumerate(batch.id.tolist()):
            step = rich_step(number)
            np.testing.assert_array_equal(batch.obs["camera"][row], step["obs"]["camera"])
            np.testing.assert_array_equal(batch.obs["body"]["joints"][row], step["obs"]["body"]["joints"])
            assert batch.obs["body"]["touch"][row] == step["obs"]["body"]["touch"]
            np.testing.assert_array_equal(batch.extras["logits"][row], step["logits"])


def test_names_that_differ_in_case_alone_are_kept_apart(tmp_path):
    """SQLite does not tell `a` from `A`; the file does."""
    spec = rv.StepSpec({"a": rv.Field((), "int64"), "A": rv.Field((), "int64")}, rv.Field((), "int64"))
    with rv.ReplayBuffer(spec, 10, seed=0, path=tmp_path / "a.replay") as buffer:
        for number in range(3):
            buffer.add(
                obs={"a": number, "A": -number}, action=0, reward=0.0, terminated=True, truncated=False
            )
    with rv.open(tmp_path / "a.replay") as buffer:
        batch = buffer.sample_steps(20)
        np.testing.assert_array_equal(batch.obs["a"], -batch.obs["A"])
        np.testing.assert_array_equal(batch.obs["a"], batch.id)


# --- paths, modes and settings -------------------------------------------------------------------------


def test_nothing_is_ever_overwritten(tmp_path):
    """A path that exists is refused by the constructor and stays as it is."""
    path = tmp_path / "a.replay"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"wanted a path that is free.*reverie\.open resumes it"):
        rv.ReplayBuffer(scalar_spec(), 10, path=path)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_file_that_is_not_there_is_missing(tmp_path):
    """open raises FileNotFoundError, and so does a constructor whose folder is missing."""
    with pytest.raises(FileNotFoundError, match="wanted a replay file, got no file"):
        rv.open(tmp_path / "a.replay")
    with pytest.raises(FileNotFoundError, match="wanted a folder"):
        rv.ReplayBuffer(scalar_spec(), 10, path=tmp_path / "no" / "a.replay")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 5000, b"SQLite format 3\0" + b"\0" * 5000])
def test_another_kind_of_file_is_refused(tmp_path, content):
    """A file that is none is refused with a FileError, for reading and for writing, and not touched."""
    path = tmp_path / "a.replay"
    path.write_bytes(content)
    for mode in ("r", "r+"):
        with pytest.raises(rv.FileError, match="wanted a replay file"):
            rv.open(path, mode=mode)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.replay"]


def test_a_newer_format_is_refused(tmp_path):
    """A file of a version to come says so instead of being misread."""
    import sqlite3

    path = tmp_path / "a.replay"
    rv.ReplayBuffer(scalar_spec(), 10, path=path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 4")
    connection.close()
    with pytest.raises(
        rv.FileError, match="wanted format version 1, 2 or 3, got 4; open it with the version"
    ):
        rv.open(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"residency": "disk"}, "wanted 'disk' only with a path"),
        ({"durability": "step"}, "durability: wanted it only with a path"),
        ({"path": 7}, "path: wanted a path, got 7"),
        ({"path": "a.replay", "durability": "often"}, "wanted 'step' or 'chunk', got 'often'"),
        ({"max_bytes": 10**9}, "max_bytes: wanted it with residency 'packed' or 'disk'"),
        ({"max_bytes": 100, "residency": "packed"}, r"max_bytes: wanted at least [\d,]+, 12 runs"),
        ({"capacity": None}, "capacity: wanted a number of steps, got None; pass it, or max_bytes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, monkeypatch, settings, message):
    """Each is refused when it is given, and no file is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rv.BadSetting, match=message):
        rv.ReplayBuffer(scalar_spec(), **{"capacity": 10, **settings})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [{"mode": "w"}, {"residency": "tape"}, {"path": 3}])
def test_open_refuses_what_it_does_not_know(tmp_path, arguments):
    """A bad mode, residency or path is a BadSetting."""
    with pytest.raises(rv.BadSetting, match="wanted"):
        rv.open(**{"path": tmp_path / "a.replay", **arguments})


def test_a_capacity_too_large_makes_no_file(tmp_path):
    """TooLarge comes before anything is written."""
    spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    with pytest.raises(rv.TooLarge):
        rv.ReplayBuffer(spec, 10**10, path=tmp_path / "a.replay")
    assert os.listdir(tmp_path) == []


def test_a_second_writer_is_refused_and_readers_are_not(tmp_path):
    """The error names the first writer's process; when it is closed, the next one may write."""
    path = tmp_path / "a.replay"
    with rv.ReplayBuffer(scalar_spec(), 10, path=path) as buffer:
        with pytest.raises(rv.FileError, match=rf"only writer, got process {os.getpid()} on .* mode='r'"):
            rv.open(path)
        with rv.open(path, mode="r") as reader:
            buffer.add(obs=1, action=1, reward=1.0, terminated=True, truncated=False)
            assert len(reader) == 1
            with pytest.raises(rv.FileError, match=r"open for reading; open it with mode='r\+'"):
                reader.add(obs=1, action=1, reward=1.0, terminated=True, truncated=False)
    with rv.open(path) as buffer:
        assert len(buffer) == 1
    assert os.listdir(tmp_path) == ["a.replay"]


@pytest.mark.parametrize("residency", RESIDENCIES)
def test_a_reader_follows_the_writer(tmp_path, residency):
    """Before every answer a reader looks for news: steps, seals, evictions, cuts, values written back."""
    twins = Twins(tmp_path / "a.replay", 2, 5)
    twins.add(3)
    with rv.open(twins.path, residency, mode="r") as reader:
        for _ in range(40):
            twins.add(int(twins.rng.integers(1, 25)))
            if twins.number > 40:
                twins.check()
            np.testing.assert_array_equal(reader.episodes, twins.plain.episodes)
            assert len(reader) == len(twins.plain)
            if not reader.count_windows(2):
                continue
            reader.engine.memories.rng.bit_generator.state = (
                twins.plain.engine.memories.rng.bit_generator.state
            )
            assert_same_batch(reader.sample(16, 2), twins.plain.sample(16, 2))
            twins.kept.sample(16, 2)
    twins.kept.close()


def test_a_closed_buffer_leaves_one_file(tmp_path):
    """No log, no index of the log, no lock: one file can be copied."""
    with rv.ReplayBuffer(scalar_spec(), 50, path=tmp_path / "a.replay") as buffer:
        fill(buffer, 80, 5.0, seed=0)
    buffer.close()
    assert os.listdir(tmp_path) == ["a.replay"]
    with pytest.raises(rv.BufferClosed):
        buffer.flush()
    before = (tmp_path / "a.replay").read_bytes()
    with rv.open(tmp_path / "a.replay", mode="r") as reader:
        assert len(reader) == 50
    assert os.listdir(tmp_path) == ["a.replay"]
    assert (tmp_path / "a.replay").read_bytes() == before


def test_the_file_stops_growing(tmp_path):
    """A ring that comes round uses the space of what it evicts."""
    rng = np.random.default_rng(0)
    spec = rv.StepSpec(rv.Field((64, 64), "uint8"), rv.Field((), "int64"))
    sizes = []
    with rv.ReplayBuffer(spec, 4 * RUN, path=tmp_path / "a.replay", residency="disk") as buffer:
        for number in range(40 * RUN):
            noise = rng.integers(0, 256, (64, 64), np.uint8)
            buffer.add(obs=noise, action=0, reward=0.0, terminated=number % 9 == 8, truncated=False,
                       final_obs=noise if number % 9 == 8 else None)  # fmt: skip
            if number % (4 * RUN) == 0:
                buffer.flush()
                sizes.append(buffer.engine.file.db.used_bytes)
    assert max(sizes[2:]) <= 1.1 * sizes[2]
    assert os.path.getsize(tmp_path / "a.replay") <= 1.3 * sizes[2]


# --- budgets of bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize(("residency", "path"), [("packed", False), ("packed", True), ("disk", True)])
def test_a_budget_of_bytes_holds(tmp_path, residency, path, streams):
    """Whatever comes, frames that pack well or not at all, the budget is never exceeded, and hardly wasted."""
    rng = np.random.default_rng(0)
    spec = rv.StepSpec(rv.Field((64, 64), "uint8"), rv.Field((), "int64"))
    budget = 40 * RUN * 4096 * streams
    where = tmp_path / "a.replay" if path else None
    settings = {"streams": streams, "residency": residency, "max_bytes": budget, "seed": 0}
    buffer = rv.ReplayBuffer(spec, path=where, **settings)
    sampler = rv.Prioritized()
    used, held = [], []
    for number in range(100 * RUN):
        noisy = number // (25 * RUN) % 2 == 1
        frame = rng.integers(0, 256 if noisy else 2, (64, 64), np.uint8)
        ends = number % 50 == 49
        for stream in range(streams):
            buffer.add(obs=frame, action=number, reward=0.0, terminated=ends, truncated=False, stream=stream,
                       final_obs=frame if ends else None)  # fmt: skip
        if number % 5 == 0:
            used.append(buffer.engine.changes.budget.used())
            held.append(len(buffer))
        if number % 40 == 39:
            batch = buffer.sample(16, 5, sampler=sampler)
            np.testing.assert_array_equal(batch.action, batch.step_ids())
            assert sampler._steps.tree.total == pytest.approx(len(buffer) - sampler._steps.barred)
    assert max(used) <= budget
    assert max(used) >= 0.8 * budget
    assert min(held[len(held) // 2 :]) >= streams * 20 * RUN
    assert max(held) > 1.15 * min(held[len(held) // 2 :])
    episodes = buffer.episodes
    buffer.close()
    if path:
        with rv.open(where) as again:
            assert again.max_bytes == budget
            np.testing.assert_array_equal(again.episodes, episodes)


# --- copies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residency", [None, "ram", "packed", "disk"])
def test_a_copy_is_whole_and_goes_on_as_the_buffer_does(tmp_path, residency):
    """save_as of a buffer in memory, and of one in a file, opens to the same next batches."""
    twins = Twins(tmp_path / "a.replay", 2, 7, **({"residency": residency} if residency else {}))
    source = twins.kept if residency else twins.plain
    for turn in range(6):
        twins.add(50)
        twins.check()
        source.save_as(tmp_path / "copy.replay")
        used = twins.kept_samplers if residency else twins.plain_samplers
        other = tmp_path / f"{turn}.replay"
        other.write_bytes((tmp_path / "copy.replay").read_bytes())
        with rv.open(other) as copy:
            np.testing.assert_array_equal(copy.episodes, source.episodes)
            for one, another in zip(samplers(), used, strict=True):
                assert_same_batch(copy.sample(6, 4, sampler=one), source.sample(6, 4, sampler=another))
        # What the copy drew, the other twin has yet to draw.
        rest = twins.plain if residency else twins.kept
        for sampler in twins.plain_samplers if residency else twins.kept_samplers:
            rest.sample(6, 4, sampler=sampler)
    twins.kept.close()


@pytest.mark.parametrize("residency", ["ram", "packed"])
@pytest.mark.parametrize("capacity", [1, 3, RUN, RUN + 1])
def test_a_copy_of_a_small_ring_is_whole_wherever_its_head_is(tmp_path, capacity, residency):
    """A ring of no more than one run has none before the newest, also when it has just come round."""
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, residency=residency, seed=0)
    for step in range(3 * capacity + 1):
        buffer.add(obs=step, action=0, reward=0.0, terminated=step % 5 == 4, truncated=False, final_obs=None)
        if (step + 1) % capacity > 1:
            continue
        path = tmp_path / f"{step}.replay"
        buffer.save_as(path)
        with rv.open(path) as copy:
            assert copy.episodes["stop"].tolist() == buffer.episodes["stop"].tolist()
            for more in range(step + 1, step + capacity + 2):
                copy.add(obs=more, action=0, reward=0.0, terminated=False, truncated=False)
        with rv.open(path, mode="r") as copy:
            drawn = copy.sample(400, 1, boundary="pad_right").obs[:, 0]
            assert set(drawn.tolist()) == set(range(step + 2, step + capacity + 2))


@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
@pytest.mark.parametrize("capacity", [1, 3, RUN])
def test_a_small_ring_whose_file_has_gone_is_saved_as_it_is(tmp_path, capacity, residency):
    """The newest run of a ring of one run has not been sealed: what the file has of that run is the lap before."""
    path = tmp_path / "a.replay"
    buffer = rv.ReplayBuffer(scalar_spec(), capacity, residency=residency, path=path, seed=0)
    for step in range(2 * capacity):
        buffer.add(obs=step, action=0, reward=0.0, terminated=False, truncated=False)
    path.rename(tmp_path / "gone.replay")
    buffer.save_as(tmp_path / "copy.replay")
    with rv.open(tmp_path / "copy.replay", mode="r") as copy:
        drawn = copy.sample(400, 1, boundary="pad_right").obs[:, 0]
        assert set(drawn.tolist()) == set(range(capacity, 2 * capacity))
    with pytest.raises(rv.FileError):
        buffer.close()


def test_a_copy_brought_up_to_date_is_not_written_again(tmp_path):
    """After ten new steps, a second save_as writes a few rows, not the thousands there are."""
    path = tmp_path / "copy.replay"
    with rv.ReplayBuffer(WIDE, 100 * RUN, seed=0, path=tmp_path / "a.replay") as buffer:
        written = []
        for steps in (90 * RUN, 10, 0, 2 * RUN):
            for number in range(steps):
                buffer.add(obs=wide_obs(number), action=0, reward=0.0, terminated=number % 50 == 49, truncated=False,
                           latent=np.zeros(64, np.float32), value=0.0)  # fmt: skip
            changed = rows_written(buffer, path)
            written.append(changed)
        assert written[0] > 90
        assert max(written[1:]) < 90
        with rv.open(path, mode="r") as copy:
            np.testing.assert_array_equal(copy.episodes, buffer.episodes)


def rows_written(buffer, path) -> int:
    """How many rows of runs and episodes a save_as puts."""
    from reverie.file.replay import ReplayFile

    count = 0
    originals = ReplayFile.put_run, ReplayFile.put_episode

    def counted(original):
        def put(*arguments):
            nonlocal count
            count += 1
            return original(*arguments)

        return put

    ReplayFile.put_run, ReplayFile.put_episode = map(counted, originals)
    try:
        buffer.save_as(path)
    finally:
        ReplayFile.put_run, ReplayFile.put_episode = originals
    return count


def test_a_copy_never_replaces_anything_else(tmp_path):
    """A foreign file, another buffer's file, the buffer's own, and a copy that went its own way are refused."""
    with rv.ReplayBuffer(scalar_spec(), 50, path=tmp_path / "a.replay", seed=0) as buffer:
        fill(buffer, 20, 5.0, seed=0)
        rv.ReplayBuffer(scalar_spec(), 50, path=tmp_path / "b.replay").close()
        (tmp_path / "c.replay").write_text("mine")
        buffer.save_as(tmp_path / "d.replay")
        rv.open(tmp_path / "d.replay").close()
        for name in "abcd":
            before = (tmp_path / f"{name}.replay").read_bytes()
            with pytest.raises(rv.FileError, match="wanted"):
                buffer.save_as(tmp_path / f"{name}.replay")
            assert name == "a" or (tmp_path / f"{name}.replay").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [f"{name}.replay" for name in "abcd"]

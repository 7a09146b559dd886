"""The batches for known trainers: each equals a plain loop over episodes, and docs/clients.md has what is printed."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import reverie as rv

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/clients.md").read_text()
TRAINERS = ("dreamer", "diamond", "tdmpc2")


def client(name):
    """The function of a script that draws a batch."""
    return runpy.run_path(str(ROOT / f"examples/{name}_batches.py"))[f"{name}_batch"]


def recorded(spec, capacity=150, steps=200, cuts=True):
    """Two streams of episodes of 1 to 12 steps, which end in every way; the oldest steps are evicted."""
    rng, left, buffer = np.random.default_rng(3), [5, 7], rv.ReplayBuffer(spec, capacity, streams=2, seed=1)

    def drawn(field):
        if field.dtype.kind == "f":
            return rng.normal(size=field.shape).astype(field.dtype)
        return rng.integers(0, 256, field.shape).astype(field.dtype)

    for _ in range(steps):
        for stream in range(2):
            left[stream] -= 1
            how = rng.integers(3 if cuts else 2) if not left[stream] else -1
            buffer.add(obs=drawn(spec.obs), action=drawn(spec.action), reward=rng.normal(), terminated=how == 0,
                       truncated=how == 1, stream=stream, final_obs=drawn(spec.obs) if how in (0, 1) else None)  # fmt: skip
            if how == 2:
                buffer.cut(stream, final_obs=drawn(spec.obs))
            if not left[stream]:
                left[stream] = int(rng.integers(1, 13))
    assert not buffer.episode(0).is_whole or not buffer.episode(1).is_whole
    return buffer


def every(buffer):
    return [buffer.episode(number) for number in range(len(buffer.episodes))]


def rows_of(buffer):
    """For each stream the rows as DreamerV3 stores them: (step or -1, obs, action, reward, first, last, terminal)."""
    streams = {0: [], 1: []}
    for one in every(buffer):
        for step in range(len(one)):
            begins = one.is_whole and step == 0
            if begins or step > 0:  # the reward that came with an evicted beginning is gone
                reward = 0 if begins else one.reward[step - 1]
                row = (one.start + step, one.obs[step], one.action[step], reward, begins, False, False)
                streams[one.stream].append(row)
        if not one.running:
            row = (-1, one.final_obs, 0, one.reward[-1], False, True, one.terminated)
            streams[one.stream].append(row)
    return streams


def test_dreamer_batches_are_rows():
    """Every row of every window, the first flag forced; what is written back lies at the rows' steps."""
    spec = rv.StepSpec(rv.Field((4, 4, 3), "uint8"), rv.Field((), "int32"))
    buffer = recorded(spec)
    streams, length = rows_of(buffer), 21
    batch, host = client("dreamer")(buffer, batch_size=200, length=20, context=1)
    assert {key: array.shape[:2] for key, array in batch.items()} == dict.fromkeys(batch, (200, length))
    for window in range(200):
        numbers = batch["stepid"][window, :, :16].copy().view(">i8")
        assert not batch["stepid"][window, :, 16:].any()
        [stream] = set(numbers[:, 0].tolist())
        steps = [row[0] for row in streams[stream]]
        first = steps.index(numbers[0, 1])
        wanted = streams[stream][first : first + length]
        assert numbers[:, 1].tolist() == steps[first : first + length]
        keys = ("image", "action", "reward", "is_first", "is_last", "is_terminal")
        for place, (key, values) in enumerate(zip(keys, list(zip(*wanted, strict=True))[1:], strict=True)):
            values = np.array(values, batch[key].dtype)
            if key == "is_first":
                values[0] = True
            np.testing.assert_array_equal(batch[key][window], values, err_msg=f"{key} {place}")
    assert {"terminal", "last", "first"} <= {
        name for name in ("terminal", "last", "first") if batch[f"is_{name}"][:, 1:].any()
    }
    assert host.id.shape == (200, length)


@pytest.mark.parametrize(("obs", "extra", "twice"), [({"a": 1, "reward": 1}, "b", "reward"), ({"a": 1}, "a", "a"), ({"a": 1}, "stepid", "stepid")])  # fmt: skip
def test_dreamer_batches_have_a_name_for_each_key(obs, extra, twice):
    """Observations have their own names; no key takes another one's place in silence."""
    number = rv.Field((), "int64")
    spec = rv.StepSpec(dict.fromkeys(obs, number), number, {extra: number})
    buffer = rv.ReplayBuffer(spec, 20, seed=0)
    for _ in range(10):
        buffer.add(obs=obs, action=0, reward=0, terminated=False, truncated=False, **{extra: 0})
    with pytest.raises(ValueError, match=rf"got \['{twice}'\] twice; rename these fields"):
        client("dreamer")(buffer, batch_size=2, length=3)


def test_diamond_batches_are_segments():
    """Every frame, number, flag and final observation of each segment, and zeros around it."""
    buffer = recorded(rv.StepSpec(rv.Field((3, 4, 4), "uint8"), rv.Field((), "int64")))
    episodes, length = every(buffer), 9
    batch = client("diamond")(buffer, batch_size=300, length=length)
    begun, finals, sides = np.asarray(buffer.episodes["start"]), 0, set()

    def scaled(frames):
        return frames.astype(np.float32) / 255 * 2 - 1

    for row, (number, start, stop) in enumerate(batch["segment_ids"]):
        one = episodes[number]
        gone = one.start - int(begun[number])  # steps that were evicted
        first, last = start - gone, stop - gone
        mask = batch["mask_padding"][row].numpy()
        left = int(mask.argmax())
        assert mask.tolist() == [left <= at < left + stop - start for at in range(length)]
        assert not left or first == 0
        assert left + stop - start == length or last == len(one)
        sides |= {left > 0, "right" * (left + stop - start < length)}
        flags = np.zeros((2, len(one)))
        flags[:, -1] = one.terminated, one.truncated
        for name, values in (("obs", scaled(one.obs)), ("act", one.action), ("rew", one.reward), ("end", flags[0]),
                             ("trunc", flags[1])):  # fmt: skip
            got = batch[name][row].numpy()
            np.testing.assert_allclose(got[mask], values[first:last], atol=1e-6)
            assert not got[~mask].any()
        is_end = last == len(one) and (one.terminated or one.truncated)
        assert set(batch["info"][row]) == ({"final_observation"} if is_end else set())
        if is_end:
            final = batch["info"][row]["final_observation"].numpy()
            np.testing.assert_allclose(final, scaled(one.final_obs), atol=1e-6)
            finals += 1
    assert finals > 20
    assert sides == {True, False, "right", ""}


def test_tdmpc2_batches_are_slices():
    """Time first: every observation, action, reward and flag; windows reach final observations."""
    buffer = recorded(rv.StepSpec(rv.Field((3,), "float32"), rv.Field((2,), "float32")))
    place = {one.obs[step].tobytes(): (one, step) for one in every(buffer) for step in range(len(one))}
    obs, action, reward, terminated, task = client("tdmpc2")(buffer, batch_size=200)
    assert task is None
    assert (obs.shape, action.shape) == ((4, 200, 3), (3, 200, 2))
    assert reward.shape == terminated.shape == (3, 200, 1)
    ends = 0
    for row in range(200):
        one, step = place[obs[0, row].numpy().tobytes()]
        here = slice(step, step + 3)
        seen = one.obs if one.running else np.concatenate([one.obs, one.final_obs[None]])
        np.testing.assert_array_equal(obs[:, row], seen[step : step + 4])
        np.testing.assert_array_equal(action[:, row], one.action[here])
        np.testing.assert_array_equal(reward[:, row, 0], one.reward[here])
        is_end = step + 3 == len(one)
        assert terminated[:, row, 0].tolist() == [0, 0, float(is_end and one.terminated)]
        ends += is_end and not one.running
    assert ends > 20


def test_tdmpc2_batches_of_several_observations():
    """A dict of observations stays one."""
    spec = rv.StepSpec(
        {"rgb": rv.Field((1, 2), "uint8"), "state": rv.Field((), "float32")}, rv.Field((1,), "float32")
    )
    buffer = rv.ReplayBuffer(spec, 20, seed=0)
    for step in range(9):
        obs = {"rgb": np.full((1, 2), step, np.uint8), "state": step}
        buffer.add(obs=obs, action=[0], reward=step, terminated=False, truncated=False)
    obs, _, reward, *_ = client("tdmpc2")(buffer, batch_size=5)
    assert obs["rgb"].shape == (4, 5, 1, 2)
    np.testing.assert_array_equal(obs["rgb"][:, :, 0, 0], obs["state"])
    np.testing.assert_array_equal(obs["state"][:3], reward[..., 0])


def test_tdmpc2_batches_make_no_observation_up():
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((3,), "float32"), rv.Field((2,), "float32")), 10, seed=0)
    for step in range(3):
        buffer.add(obs=[0, 0, 0], action=[0, 0], reward=0, terminated=step == 2, truncated=False)
    with pytest.raises(ValueError, match="a final observation is not known; give `final_obs`"):
        client("tdmpc2")(buffer, batch_size=4)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_page_has_what_the_script_prints(name, capsys):
    """Each array that a script prints stands in the tables with its shape and dtype."""
    runpy.run_path(str(ROOT / f"examples/{name}_batches.py"), run_name="__main__")
    printed = re.findall(r"^(\w+) +(\(.*\)) (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert len(printed) >= 4
    part = PAGE.split(f"`examples/{name}_batches.py`")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    told = {key: (row[1], row[2]) for row in rows for key in re.findall(r"`(\w+)`", row[0])}
    for key, shape, dtype in printed:
        assert told.get(key) == (shape, dtype), key

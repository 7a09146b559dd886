"""Batches of some fields only: what they have, what they say of the rest, and that the rest is never read."""

import copy
import pickle

import numpy as np
import pytest

import reverie as rv
from reverie.batch import contents
from reverie.errors import FieldNotRead
from reverie.index import BOUNDARIES
from reverie.values import tree_leaves
from support.batches import write

ALL = sorted(BOUNDARIES)
LEAVES = (
    "obs/arm/joints",
    "obs/arm/touch",
    "obs/camera",
    "action",
    "extras/hidden",
    "extras/value",
    "reward",
)
SELECTIONS = {
    (): (),
    ("obs",): ("obs/arm/joints", "obs/arm/touch", "obs/camera"),
    ("obs/camera", "action"): ("obs/camera", "action"),
    ("obs/arm",): ("obs/arm/joints", "obs/arm/touch"),
    ("reward", "extras"): ("extras/hidden", "extras/value", "reward"),
    ("extras/value", "obs/arm/touch"): ("extras/value", "obs/arm/touch"),
}


def spec():
    obs = {
        "camera": rv.Field((3, 8, 8), "uint8"),
        "arm": {"joints": rv.Field((3,), "float32"), "touch": rv.Field((), "bool")},
    }
    extras = {"value": rv.Field((2,), "float32"), "hidden": rv.Field((5,), "float64")}
    return rv.StepSpec(obs, rv.Field((), "int64"), extras)


@pytest.fixture(params=["ram", "packed", "disk"])
def make(request, tmp_path):
    """Return what makes a buffer of this residency; all of them hold the same, and have wrapped."""
    made = []

    def make():
        path = tmp_path / f"{len(made)}.replay" if request.param == "disk" else None
        buffer = rv.ReplayBuffer(spec(), 160, streams=2, seed=4, residency=request.param, path=path)
        made.append(write(buffer, 110, seed=5))
        return buffer

    yield make
    for buffer in made:
        buffer.close()


def arrays(batch):
    """Return every array of a batch by flat name."""
    return {name[1:]: array for name, array in tree_leaves("", contents(batch))}


def reads(buffer, monkeypatch):
    """Return a set that collects the names of what is read from the stores from now on."""
    engine, names = buffer.engine, set()

    class Watched:
        def __init__(self, store):
            self._store = store

        def gather(self, name, *places):
            names.add(name)
            return self._store.gather(name, *places)

        def gather_spans(self, name, *places):
            names.add(name)
            return self._store.gather_spans(name, *places)

    gatherer = engine.gatherer
    monkeypatch.setattr(gatherer, "_raw", None)  # C reads what the layout lists; nobody can watch it
    if gatherer._plain is not None:
        monkeypatch.setattr(gatherer, "_plain", Watched(gatherer._plain))
    monkeypatch.setattr(gatherer, "_store", Watched(gatherer._store))
    monkeypatch.setattr(gatherer, "_finals", Watched(gatherer._finals))
    return names


@pytest.mark.parametrize("boundary", ALL)
def test_the_same_windows_with_fewer_fields(make, boundary, monkeypatch):
    """What is there is what a whole batch has, the random numbers are the same, and nothing else is read."""
    whole, part = make(), make()
    names = reads(part, monkeypatch)
    for fields, leaves in SELECTIONS.items():
        for burn_in, stride in ((0, 1), (2, 1), (1, 3)):
            how = {"boundary": boundary, "burn_in": burn_in, "stride": stride}
            wanted = arrays(whole.sample(40, 3, **how))
            names.clear()
            got = arrays(part.sample(40, 3, **how, fields=fields))
            assert names == set(leaves)
            assert wanted.keys() - got.keys() == set(LEAVES) - set(leaves)
            for name, array in got.items():
                assert array.dtype == wanted[name].dtype
                assert array.tobytes() == wanted[name].tobytes(), name
    assert part.sample(9, 3).anchor.tolist() == whole.sample(9, 3).anchor.tolist()


def test_single_steps_with_fewer_fields(make, monkeypatch):
    """As above; "obs" reads successors, too."""
    whole, part = make(), make()
    names = reads(part, monkeypatch)
    for fields, leaves in SELECTIONS.items():
        wanted = {name[1:]: array for name, array in tree_leaves("", whole.sample_steps(30).as_dict())}
        names.clear()
        batch = part.sample_steps(30, fields=fields)
        got = {name[1:]: array for name, array in tree_leaves("", batch.as_dict())}
        following = {f"next_{name}" for name in leaves if name.startswith("obs")}
        assert names == set(leaves)
        assert {name for name in got if name in LEAVES or name.startswith("next_obs/")} == set(
            leaves
        ) | following
        for name, array in got.items():
            assert array.tobytes() == wanted[name].tobytes(), name
    with pytest.raises(FieldNotRead, match=r"wanted 'next_obs' .* add 'obs' to fields="):
        _ = part.sample_steps(3, fields=["reward"]).next_obs


def test_packed_frames_that_are_not_asked_for_are_not_unpacked(tmp_path, monkeypatch):
    """Not even looked up: neither runs nor final observations of the camera."""
    buffer = rv.ReplayBuffer(spec(), 160, streams=2, seed=4, residency="disk", path=tmp_path / "a.replay")
    write(buffer, 110, seed=5)
    looked = set()

    def watch(thing, name, place):
        before = getattr(thing, name)
        monkeypatch.setattr(thing, name, lambda *how: looked.add(how[place]) or before(*how))

    watch(buffer.engine.store, "_unpack", 0)
    watch(buffer.engine.finals, "_at", 1)
    buffer.sample(50, 3, boundary="pad_both", fields=("obs/arm", "action"))
    assert looked == {"obs/arm/joints", "obs/arm/touch", "action"}
    buffer.sample(50, 3, boundary="pad_both")
    assert looked == set(LEAVES)
    buffer.close()


@pytest.mark.parametrize("boundary", ["pad_left", "cross"])
def test_what_was_not_read_says_so(make, boundary):
    """An attribute, a name, and a key of a dict: FieldNotRead names the field, what there is, and the remedy."""
    batch = make().sample(4, 3, boundary=boundary, fields=("obs/arm/touch", "action"))
    with pytest.raises(
        FieldNotRead, match=r"^wanted 'reward' .* got \['obs', 'action'\]; add 'reward' to fields="
    ):
        _ = batch.reward
    with pytest.raises(FieldNotRead, match=r"^wanted 'reward' of a batch that was drawn without it"):
        batch["reward"]
    for name in ("obs/camera", "obs/arm/joints", "extras/value"):
        with pytest.raises(
            KeyError, match=rf"wanted one of \['action', .*'obs/arm/touch', .* got '{name}'; what fields="
        ):
            batch[name]
    with pytest.raises(AttributeError, match="no attribute 'next_obs'"):
        _ = batch.next_obs
    assert (
        type(batch.obs) is type(batch.obs["arm"]) is type(batch.extras) is dict
    )  # so that other libraries know them
    with pytest.raises(AttributeError, match="no attribute 'rewards'"):
        _ = batch.rewards
    with pytest.raises(KeyError, match="wanted one of"):
        batch["rewards"]
    assert not hasattr(batch, "reward")
    assert getattr(batch, "reward", None) is None
    assert batch.extras.get("value") is None
    assert issubclass(FieldNotRead, AttributeError)
    assert issubclass(FieldNotRead, KeyError)
    assert "obs/arm/touch" in repr(batch)
    assert not any(name in repr(batch) for name in ("reward", "camera", "joints", "extras"))


def test_what_a_batch_can_do_with_fewer_fields(make):
    """as_dict, map, time_major, first_forced, copies and pickles have the same fields, and their buffer knows them."""
    buffer, sampler = make(), rv.Prioritized()
    for boundary in ALL:
        batch = buffer.sample(
            4, 3, boundary=boundary, sampler=sampler, fields=("obs/camera", "extras/value"), stride=2
        )
        names = arrays(batch).keys()
        assert {"obs/camera", "extras/value"} == names & set(LEAVES)
        assert batch.as_dict().keys() == contents(batch).keys()
        assert arrays(batch.map(lambda array: array + 0)).keys() == names
        assert batch.time_major()["obs"]["camera"].shape[:2] == batch.obs["camera"].shape[1::-1]
        assert batch.first_forced().is_first[:, 0].all()
        for other in (
            pickle.loads(pickle.dumps(batch)),
            copy.copy(batch),
            copy.deepcopy(batch),
            batch.first_forced(),
        ):
            assert arrays(other).keys() == names
            assert other.stride == 2
            with pytest.raises(FieldNotRead, match="'action'"):
                _ = other.action
            buffer.update_priorities(other, np.ones((4, 3)))
            buffer.write_back(other, hidden=np.zeros((4, 3, 5)))
        assert batch.host is batch
        assert len(batch) == 4
    with pytest.raises(FieldNotRead, match="'reward'"):
        rv.n_step(buffer.sample(4, 3, fields=("obs",)), 2, 0.9)


@pytest.mark.parametrize("boundary", ["inside", "pad_both", "cross"])
def test_out_of_the_same_fields(make, boundary):
    """A batch is filled again with the fields it has; one with more or fewer is refused, and stays as it was."""
    buffer, twin = make(), make()
    how = {"boundary": boundary, "fields": ("obs/camera", "reward")}
    out = buffer.sample(20, 4, **how)
    fresh = [twin.sample(20, 4, **how) for _ in range(3)]
    copied = pickle.loads(pickle.dumps(out))  # without the notes of its layout
    for wanted, other in zip(fresh[1:], (out, copied), strict=True):
        assert buffer.sample(20, 4, **how, out=other) is other
        for name, array in arrays(other).items():
            assert array.tobytes() == arrays(wanted)[name].tobytes(), name
    with pytest.raises(rv.BadSetting, match=r"out: wanted .* got one with \['reward'\] as well"):
        buffer.sample(20, 4, boundary=boundary, fields=("obs/camera",), out=out)
    with pytest.raises(rv.BadSetting, match=r"out: wanted 'obs/arm/joints' .* got none"):
        buffer.sample(20, 4, boundary=boundary, fields=("obs", "reward"), out=out)
    with pytest.raises(rv.BadSetting, match=r"out: wanted 'obs/arm/joints' .* got none"):
        buffer.sample(20, 4, boundary=boundary, out=out)


def test_names(make):
    """Names are checked before anything is drawn; all of them together are everything; order and repeats do not matter."""
    buffer, untouched = make(), make()
    names = r"\['obs', 'obs/camera', 'obs/arm', 'obs/arm/joints', 'obs/arm/touch', 'action', 'extras', 'extras/value', 'extras/hidden', 'reward'\]"  # fmt: skip
    for wrong in ("camera", "obs/", "obs/cam", "", "mask", "value", 3, None, ("obs",)):
        for call in (lambda **how: buffer.sample(4, 3, **how), lambda **how: buffer.sample_steps(4, **how)):
            with pytest.raises(rv.BadSetting, match=f"fields: wanted some of {names}, got"):
                call(fields=["obs", wrong])
    with pytest.raises(
        rv.BadSetting, match=r"fields: wanted several names, got 'obs'; write fields=\('obs',\)"
    ):
        buffer.sample(4, 3, fields="obs")
    with pytest.raises(rv.BadSetting, match="fields: wanted several names, got 3"):
        buffer.sample(4, 3, fields=3)
    assert buffer.sample(9, 3).anchor.tolist() == untouched.sample(9, 3).anchor.tolist()
    whole = buffer.sample(4, 3, fields=["obs", "action", "extras", "reward"])
    assert type(whole.obs) is dict
    assert arrays(whole).keys() == arrays(buffer.sample(4, 3)).keys()
    once = arrays(buffer.sample(4, 3, fields=iter(["obs/arm", "obs/arm/touch", "obs/arm"])))
    assert [name for name in once if name in LEAVES] == ["obs/arm/joints", "obs/arm/touch"]


def test_a_field_that_is_one_array():
    """Where observations are no dict, "obs" is the array, and there are no extras to miss."""
    buffer = rv.ReplayBuffer(rv.StepSpec(rv.Field((2,), "uint8"), rv.Field((), "int64")), 20, seed=0)
    for step in range(9):
        buffer.add(obs=[step, step], action=step, reward=step, terminated=step == 4, truncated=False)
    batch = buffer.sample(3, 2, fields=("obs",))
    assert batch.obs.shape == (3, 3, 2)
    assert batch.extras == {}
    assert not hasattr(batch, "action")
    assert batch.step_ids().shape == (3, 2)


@pytest.mark.parametrize("boundary", ["inside", "cross"])
def test_a_union_reads_as_few_fields(boundary, monkeypatch):
    """Of both parts, windows and single steps alike."""
    parts = [write(rv.ReplayBuffer(spec(), 160, streams=2, seed=seed), 110, seed=seed) for seed in (0, 1)]
    names = [reads(part, monkeypatch) for part in parts]
    with rv.Union(parts, seed=2) as union:
        batch = union.sample(60, 3, boundary=boundary, fields=("obs/camera", "reward"))
        assert names == [{"obs/camera", "reward"}] * 2
        assert arrays(batch).keys() & set(LEAVES) == {"obs/camera", "reward"}
        out = union.sample(60, 3, boundary=boundary, fields=("obs/camera", "reward"), out=batch)
        assert out is batch
        steps = union.sample_steps(20, fields=("obs/camera", "extras/value"))
        assert steps.next_obs["camera"].shape == (20, 3, 8, 8)
        assert not hasattr(steps, "action")
        with pytest.raises(rv.BadSetting, match="fields: wanted some of"):
            union.sample(60, 3, fields=("frames",))

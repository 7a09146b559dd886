"""A batch knows its buffer, and travels: copied, pickled, to another process and back."""

import copy
import gc
import multiprocessing
import pickle
import weakref

import numpy as np
import pytest

import reverie as rv

SPEC = rv.StepSpec({"a": rv.Field((2,), "float32"), "b": rv.Field((), "uint8")}, rv.Field((), "int64"),
                   {"note": rv.Field((), "int64")})  # fmt: skip


def filled(seed: int = 0, **settings) -> rv.ReplayBuffer:
    buffer = rv.ReplayBuffer(SPEC, 40, seed=seed, **settings)
    for step in range(40):
        buffer.add(obs={"a": [step, -step], "b": step}, action=step, reward=step, terminated=step % 8 == 7, truncated=False,
                   note=0)  # fmt: skip
    return buffer


SAMPLERS = {
    "default": lambda: None,
    "uniform": rv.Uniform,
    "episodes": rv.EpisodeUniform,
    "recent": lambda: rv.Recent(newest=20),
    "prioritized": rv.Prioritized,
    "visits by episode": rv.VisitBalanced,
    "visits by step": lambda: rv.VisitBalanced(by="step"),
    "fresh": rv.Fresh,
    "shuffled": rv.Shuffled,
    "mixture": lambda: rv.Mixture([(rv.Prioritized(), 0.5), (rv.Fresh(), 0.5)]),
}
WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle 2": lambda batch: pickle.loads(pickle.dumps(batch, 2)),
    "pickle 5": lambda batch: pickle.loads(pickle.dumps(batch, 5)),
    "twice": lambda batch: pickle.loads(pickle.dumps(copy.deepcopy(copy.copy(batch)))),
}
PRIORITIES = ("prioritized", "mixture")


def leaves(batch) -> dict:
    names = [name for name in type(batch).__dataclass_fields__ if not name.startswith("_")]
    flat = {}
    for name in names:
        value = getattr(batch, name)
        flat |= (
            {f"{name}/{key}": leaf for key, leaf in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def assert_same(one, other) -> None:
    assert type(one) is type(other)
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.tolist() == other[name].tolist(), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("boundary", ["inside", "pad_both", "cross"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_batch_travels_whatever_sampler_drew_it(name, boundary, way):
    """A copied or pickled batch is equal, and its buffer takes what is learned from it as from the original."""
    one, other = filled(), filled()
    batches = []
    for buffer, carried in ((one, False), (other, True)):
        sampler = SAMPLERS[name]()
        batch = buffer.sample(6, 3, boundary=boundary, burn_in=1, sampler=sampler)
        back = WAYS[way](batch) if carried else batch
        assert_same(batch, back)
        buffer.write_back(back, note=np.arange(24).reshape(6, 4))
        if name in PRIORITIES:
            buffer.update_priorities(back, np.arange(6.0))
        batches.append(buffer.sample(30, 3, boundary=boundary, sampler=sampler))
    assert_same(*batches)


def test_a_pickle_holds_neither_buffer_nor_sampler():
    """A pickled batch is hardly larger than its arrays, however large its buffer and its sampler."""
    big = rv.ReplayBuffer(SPEC, 100_000, seed=0)
    for step in range(20):
        big.add(obs={"a": [0, 0], "b": 0}, action=step, reward=0.0, terminated=False, truncated=False, note=0)
    batch = big.sample(4, 2, sampler=rv.Prioritized())
    assert len(pickle.dumps(batch)) < sum(array.nbytes for array in leaves(batch).values()) + 5_000


def test_a_copied_batch_may_be_filled_again():
    """out= takes a copy, whose flags are cleared as those of the original would be; the original stays."""
    buffer, twin = filled(), filled()
    batch = buffer.sample(32, 4, boundary="pad_both")
    twin.sample(32, 4, boundary="pad_both")
    before = copy.deepcopy(batch)
    for way in ("deepcopy", "pickle 5"):
        again = WAYS[way](batch)
        assert buffer.sample(32, 4, out=again) is again
        assert_same(again, twin.sample(32, 4))
        assert_same(batch, before)


def test_large_batches_are_copied_out_of_their_block():
    """A batch whose arrays lie in one recycled block is equal after its travels, and may be filled again."""
    spec = rv.StepSpec(rv.Field((3, 64, 64), "uint8"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 50, seed=0)
    for step in range(50):
        frame = np.full((3, 64, 64), step, np.uint8)
        buffer.add(obs=frame, action=step, reward=step, terminated=step % 9 == 8, truncated=False)
    batch = buffer.sample(16, 4, boundary="pad_left")
    for way in WAYS.values():
        assert_same(batch, way(batch))
    again = pickle.loads(pickle.dumps(batch))
    buffer.sample(16, 4, out=again)
    assert (again.obs[:, :-1, 0, 0, 0] == again.action).all()
    assert again.mask.all()
    assert (again.terminated == ((again.action % 9) == 8)).all()


def test_single_steps_travel():
    """A StepBatch copies and pickles."""
    steps = filled().sample_steps(5)
    for way in WAYS.values():
        assert_same(steps, way(steps))


@pytest.mark.parametrize("way", ["itself", *WAYS])
@pytest.mark.parametrize("boundary", ["inside", "cross"])
def test_another_buffers_batch_is_refused_and_changes_nothing(boundary, way):
    """write_back and update_priorities refuse a batch of another buffer, equal as that buffer may be."""
    one, other, sampler = filled(), filled(), rv.Prioritized()
    batch = other.sample(4, 2, boundary=boundary, sampler=sampler)
    batch = batch if way == "itself" else WAYS[way](batch)
    for change in (lambda: one.write_back(batch, note=np.ones((4, 2), np.int64)),
                   lambda: one.update_priorities(batch, np.ones(4))):  # fmt: skip
        with pytest.raises(
            rv.BadSetting, match=r"wanted one that this buffer drew, got one of another buffer.*pass it"
        ):
            change()
    assert not one.sample(200, 2).extras["note"].any()


def test_a_buffer_opened_again_is_another_buffer(tmp_path):
    """After a crash ids may stand for other steps: a batch from before the file was opened again is refused."""
    with filled(path=tmp_path / "a.replay") as before:
        batch = before.sample(4, 2)
    with rv.open(tmp_path / "a.replay") as after, pytest.raises(rv.BadSetting, match="another buffer"):
        after.write_back(batch, note=np.ones((4, 2), np.int64))


def test_what_is_no_batch_is_refused():
    """Single steps, and things that are no batch, have nothing to learn from."""
    buffer = filled()
    for value in (buffer.sample_steps(3), None, {"obs": 1}, buffer.sample(3, 2).obs):
        with pytest.raises(rv.BadSetting, match="wanted a batch as sample"):
            buffer.update_priorities(value, np.ones(3))
        with pytest.raises(rv.BadSetting, match="wanted a batch as sample"):
            buffer.write_back(value, note=np.ones((3, 2), np.int64))


def learn(inbox, outbox) -> None:
    """What a learner's process does: it has the batches and nothing else."""
    for sent in iter(inbox.get, None):
        batch = pickle.loads(sent)
        outbox.put((pickle.dumps(batch), batch.reward.sum(axis=1), len(pickle.dumps(batch.origin))))


def test_a_learner_process_sends_td_errors_back():
    """A spawned process gets batches, sends them back with TD errors, and the buffer takes these."""
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    learner = context.Process(target=learn, args=(inbox, outbox), daemon=True)
    learner.start()
    buffer, twin = filled(), filled()
    sampler, its = rv.Prioritized(), rv.Prioritized()
    for _ in range(3):
        batch, same = buffer.sample(8, 3, sampler=sampler), twin.sample(8, 3, sampler=its)
        inbox.put(pickle.dumps(batch))
        del batch
        back, errors, _ = outbox.get(timeout=60)
        buffer.update_priorities(pickle.loads(back), errors)
        buffer.write_back(pickle.loads(back), note=np.ones((8, 3), np.int64))
        twin.update_priorities(same, same.reward.sum(axis=1))
        twin.write_back(same, note=np.ones((8, 3), np.int64))
    inbox.put(None)
    learner.join(60)
    assert_same(buffer.sample(20, 3, sampler=sampler), twin.sample(20, 3, sampler=its))


def test_a_sampler_long_out_of_use_is_named_in_the_error():
    """A pickle names a sampler; once the buffer has let go of it, priorities are refused and write_back goes on."""
    buffer = filled()
    kept = buffer.sample(4, 2, sampler=rv.Prioritized())
    sent = pickle.dumps(buffer.sample(4, 2, sampler=rv.Prioritized()))
    for _ in range(20):
        buffer.sample(4, 2, sampler=rv.Prioritized())
    gc.collect()
    buffer.update_priorities(kept, np.ones(4))  # the batch itself holds its sampler
    with pytest.raises(rv.BadSetting, match=r"wanted one whose sampler the buffer still knows, got .*; keep"):
        buffer.update_priorities(pickle.loads(sent), np.ones(4))
    buffer.write_back(pickle.loads(sent), note=np.ones((4, 2), np.int64))


def test_the_sampler_in_use_is_never_let_go_of():
    """However many samplers come and go, a pickled batch finds the one that is used all the time."""
    buffer, sampler = filled(), rv.Prioritized()
    gc.freeze()  # what other tests left is looked through once, not thirty times
    try:
        for _ in range(30):
            sent = pickle.dumps(buffer.sample(4, 2, sampler=sampler))
            buffer.sample(4, 2, sampler=rv.Prioritized())
            gc.collect()
            buffer.update_priorities(pickle.loads(sent), np.ones(4))
    finally:
        gc.unfreeze()


def test_a_batch_keeps_no_buffer_alive():
    """A buffer that the program let go of is collected; batches of it stay as they are, and so do their pickles."""
    buffer = filled()
    batch = buffer.sample(4, 2, sampler=rv.Prioritized())
    sent = pickle.dumps(batch)
    gone = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert gone() is None
    assert_same(batch, pickle.loads(sent))

"""Memory that a learner lends to a shard of its machine, without Ray: who writes to it when, and when it is used again."""

import gc
import os

import pytest

import reverie as rv
from reverie.engine import Layouts
from reverie.ray.lent import KEPT, LENT_FROM, MOST_TOO_LARGE, Lender, Lent, Tray, is_there

SPEC = rv.StepSpec(obs=rv.Field((32, 32), "uint8"), action=rv.Field((), "int64"))
ROWS, LENGTH = 16, 10


@pytest.fixture
def layout():
    return Layouts(SPEC).get(False, ROWS, LENGTH)


def laid(tray, layout, loan, value):
    """Let a shard make a batch whose frames have one value; return what Ray is to carry."""
    tray.use(loan)
    batch = tray.allocate(layout)
    batch.obs[...] = value
    batch.weight[...] = 1.0
    return tray.to_send()


def test_what_a_shard_writes_is_what_the_learner_sees(layout):
    """The bytes do not travel, and the block is lent again once nobody looks at the batch, and not before."""
    lender, tray = Lender(), Tray()
    lent = lender.lend(layout.nbytes)
    assert laid(tray, layout, lent.loan, 7) is None
    batch = lender.opened(layout, lent, None)
    assert (batch.obs == 7).all()
    other = lender.lend(layout.nbytes)
    assert other is not lent
    assert laid(tray, layout, other.loan, 8) is None
    frames = batch.obs[3]
    del batch
    assert lender.lend(layout.nbytes) is not lent
    assert (frames == 7).all()
    del frames
    assert lender.lend(layout.nbytes) is lent
    assert lent.loan.turn == 1
    assert laid(tray, layout, lent.loan, 9) is None
    assert (lender.opened(layout, lent, None).obs == 9).all()


def test_a_shard_writes_once_for_each_turn_and_never_for_an_older_one(layout):
    """A call that comes twice, or too late, answers with bytes of its own, and leaves the learner's alone."""
    lender, tray = Lender(), Tray()
    lent = lender.lend(layout.nbytes)
    first = lent.loan
    assert laid(tray, layout, first, 1) is None
    seen = lender.opened(layout, lent, None)
    assert (laid(tray, layout, first, 2)[: ROWS * 1024] == 2).all()
    assert (seen.obs == 1).all()
    del seen
    assert lender.lend(layout.nbytes) is lent
    assert laid(tray, layout, lent.loan, 3) is None
    assert laid(tray, layout, first, 4) is not None
    assert (lender.opened(layout, lent, None).obs == 3).all()


def test_a_shard_elsewhere_sends_its_batch(layout, tmp_path):
    """A path that leads nowhere, or to another file, is left alone; nothing more is lent until the shard is new."""
    lender, tray = Lender(), Tray()
    lent = lender.lend(layout.nbytes)
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"\0" * lent.loan.nbytes)
    link = tmp_path / "link"
    link.symlink_to(stranger)
    for place in (str(tmp_path / "nothing"), str(stranger), str(link)):
        sent = laid(tray, layout, lent.loan._replace(place=place), 5)
        assert sent.nbytes == layout.nbytes
    assert not any(stranger.read_bytes())
    sent.flags.writeable = False  # as Ray hands it over
    batch = lender.opened(layout, lent, sent)
    assert (batch.obs == 5).all()
    batch.weight[...] *= 2
    assert (batch.weight == 2).all()
    assert lender.lend(layout.nbytes) is None


def test_small_batches_and_systems_without_such_memory_borrow_none(layout, monkeypatch):
    """Then the answer has the bytes; the system is asked once."""
    assert Lender().lend(LENT_FROM - 1) is None
    asked = []

    def refuse(name):
        asked.append(name)
        raise OSError("no more memory")

    lender = Lender()
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert lender.lend(layout.nbytes) is None
    assert lender.lend(layout.nbytes) is None
    assert len(asked) == 1
    monkeypatch.delattr(os, "memfd_create")
    assert Lender().lend(layout.nbytes) is None


def test_a_block_serves_batches_of_its_size_alone(layout):
    """One that is too small, or much too large, waits; no more than a few wait."""
    lender = Lender()
    blocks = [lender.lend(LENT_FROM << power) for power in range(8)]
    for lent in blocks:
        lender.returned(lent)
    kept = [lent.loan.nbytes for lent in blocks[-KEPT:]]
    assert kept == [LENT_FROM << power for power in range(8 - KEPT, 8)]
    assert lender.lend(kept[0] + 1).loan.nbytes == kept[1]
    assert lender.lend(kept[2] // MOST_TOO_LARGE - 1).loan.nbytes == kept[0]
    assert lender.lend(LENT_FROM).loan.nbytes == LENT_FROM


def test_what_learners_no_longer_have_is_let_go(layout):
    """The file is closed with the block; a shard drops what it maps of it when it maps the next one."""
    lender, tray = Lender(), Tray()
    open_before = len(os.listdir("/proc/self/fd"))
    lent = lender.lend(layout.nbytes)
    loan = lent.loan
    assert laid(tray, layout, loan, 1) is None
    del lent
    gc.collect()
    assert not is_there(loan)
    with open("/proc/self/maps") as maps:
        assert loan.name in maps.read()
    gone = Lent(layout.nbytes).loan
    assert laid(tray, layout, gone, 1) is not None
    other = lender.lend(layout.nbytes)
    assert laid(tray, layout, other.loan, 1) is None
    with open("/proc/self/maps") as maps:
        text = maps.read()
    assert loan.name not in text
    assert other.loan.name in text
    del other, tray
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.parametrize("nbytes", [LENT_FROM, LENT_FROM + 1, 183_744])
def test_blocks_are_large_enough(layout, nbytes):
    """Whatever was wanted fits, and what is larger goes to a block of the shard; arrays begin on cache lines."""
    assert layout.nbytes == 183_744
    tray, lent = Tray(), Lender().lend(nbytes)
    assert lent.loan.nbytes >= nbytes
    tray.use(lent.loan)
    batch = tray.allocate(layout)
    assert (tray.to_send() is None) == (layout.nbytes <= lent.loan.nbytes)
    assert all(array.ctypes.data % 64 == 0 for array in (batch.obs, batch.action, batch.weight))

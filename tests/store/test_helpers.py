"""Helpers: work shared between threads is done once, and nobody is at it any more when a call has ended."""

import gc
import threading
import weakref
from concurrent.futures import Future

import pytest

from reverie.store import codec
from reverie.store.codec import Helpers

CALLS = {
    "share": lambda helpers, work, items: helpers.share(lambda part: [work(item) for item in part], items),
    "spread": lambda helpers, work, items: helpers.spread(work, items),
    "ahead": lambda helpers, work, items: list(helpers.ahead(work, items)),
}


@pytest.fixture
def helpers(monkeypatch):
    """Helpers of a machine with two cores: one thread beside the caller's."""
    made = Helpers()
    monkeypatch.setattr(made, "_cores", 2)
    return made


@pytest.fixture
def before_settling(monkeypatch):
    """Calls, each made once, right before a caller first waits for those who are still at work."""
    calls = []
    settle = getattr(codec, "_end", None)

    def watched(jobs):
        while jobs and calls:
            calls.pop(0)()
        settle(jobs)

    monkeypatch.setattr(codec, "_end", watched, raising=False)
    return calls


class AtWork:
    """Work whose first item in a helper's thread lasts until `go` is set; `here` is done in the caller's thread."""

    def __init__(self, here):
        self.caller, self.here = threading.get_ident(), here
        self.begun, self.go = threading.Event(), threading.Event()
        self.ended = []

    def __call__(self, item):
        if threading.get_ident() == self.caller:
            return self.here(self)
        if not self.begun.is_set():
            self.begun.set()
            self.go.wait()
        self.ended.append(item)
        return item


def interrupted(work):
    """What the caller does: it is interrupted once a helper is at work."""
    work.begun.wait()
    raise KeyboardInterrupt


def begun_items(work, count):
    """Items of which the last ones come only once a helper is at work; then comes an interrupt."""
    yield from range(count)
    work.begun.wait()
    raise KeyboardInterrupt


# --- work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 3])
def test_work_is_spread(cores, monkeypatch):
    """Each item is worked on once, here and elsewhere; after an error nobody is at work any more."""
    helpers = Helpers()
    monkeypatch.setattr(helpers, "_cores", cores)
    done, threads, busy = [], set(), []

    def work(item):
        busy.append(item)
        threads.add(threading.get_ident())
        if item == 30 and wrong:
            raise ZeroDivisionError
        done.append(item)
        busy.remove(item)

    wrong = False
    helpers.spread(work, range(200))
    assert sorted(done) == list(range(200))
    assert len(threads) <= cores
    wrong = True
    with pytest.raises(ZeroDivisionError):
        helpers.spread(work, range(200))
    assert busy == [30]
    with pytest.raises(ValueError, match="no more"):
        helpers.spread(work, _ending())
    assert busy == [30]


def _ending():
    yield from range(20)
    raise ValueError("no more")


@pytest.mark.parametrize("cores", [1, 3])
def test_helpers_work_ahead_in_order(cores, monkeypatch):
    """What they make comes in order, an error where it belongs; whoever stops early leaves nothing running."""
    helpers = Helpers()
    monkeypatch.setattr(helpers, "_cores", cores)
    assert list(helpers.ahead(lambda item: -item, range(50))) == [-item for item in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(helpers.ahead(lambda item: 1 // (item - 20), range(50)))
    done = []
    made = helpers.ahead(done.append, range(50))
    next(made)
    made.close()
    assert len(done) <= 1 + Helpers.MOST_AHEAD + 1

    def refuse():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(helpers, "_threads", refuse)
    assert list(helpers.ahead(lambda item: -item, range(50))) == [-item for item in range(50)]
    done.clear()
    helpers.share(done.extend, list(range(50)))
    assert sorted(done) == list(range(50))


# --- the end of a call ---------------------------------------------------------------------------------------


def test_share_waits_for_the_others_when_it_fails(helpers, before_settling):
    """An interrupt in the caller's part: the other part has ended when it is raised."""
    work = AtWork(interrupted)
    before_settling.append(work.go.set)
    with pytest.raises(KeyboardInterrupt):
        CALLS["share"](helpers, work, list(range(20)))
    ended = list(work.ended)
    work.go.set()
    assert ended == list(range(1, 20, 2))


@pytest.mark.parametrize("call", ["spread", "ahead"])
def test_what_a_second_interrupt_leaves_is_waited_for_by_the_next_call(call, helpers, before_settling):
    """Where an interrupt comes into the wait for a helper, too, the next call begins with that wait."""
    work = AtWork(interrupted)

    def interrupt():
        raise KeyboardInterrupt

    before_settling.extend([interrupt, work.go.set])
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](helpers, work, begun_items(work, 3))
    assert not work.ended
    later = []
    CALLS[call](helpers, lambda item: later.append((item, list(work.ended))), [7])
    work.go.set()
    assert later == [(7, [0])]  # of what was left nothing was begun any more


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_done_after_a_call_for_which_no_thread_could_be_started(call, helpers, monkeypatch):
    """What waited for a thread that the system refused is done by the caller, and not again by a later thread."""
    done = []

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        CALLS[call](helpers, done.append, list(range(10)))
    assert sorted(done) == list(range(10))
    caller, came = threading.get_ident(), threading.Event()

    def work(item):  # a thread comes to the old ones first
        came.wait() if threading.get_ident() == caller else came.set()

    CALLS[call](helpers, work, list(range(20)))
    assert came.is_set()
    assert sorted(done) == list(range(10))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_thread_keeps_nothing_alive_that_a_call_was_about(call, fails, helpers, monkeypatch):
    """A thread that has told of its end, and does not get on, has let go of what it worked for, such as an open file."""
    told, go = Future._invoke_callbacks, threading.Event()
    caller, begun = threading.get_ident(), threading.Event()

    def hold(future):  # the thread that did the work comes here after all others were told
        if threading.get_ident() != caller:
            go.wait()
        told(future)

    class Owner:
        def work(self, item):
            if threading.get_ident() == caller:
                begun.wait()
            begun.set()
            if fails:
                raise ZeroDivisionError

    def items():
        yield 0
        begun.wait()

    monkeypatch.setattr(Future, "_invoke_callbacks", hold)
    owner = Owner()
    alive = weakref.ref(owner)
    try:
        try:
            CALLS[call](helpers, owner.work, list(range(8)) if call == "share" else items())
        except ZeroDivisionError:
            assert fails
        del owner
        gc.collect()
        assert alive() is None
    finally:
        go.set()


class NoPool:
    """Stands for a pool without threads: it does everything at once, or refuses it."""

    def __init__(self, works):
        self._works = works

    def submit(self, work):
        if not self._works:
            raise RuntimeError("can't start new thread")
        work()


@pytest.mark.parametrize(("items", "works"), [(5, False), (50, False), (50, True)])
def test_a_later_call_ends_one_that_is_not_over(items, works, helpers, monkeypatch):
    """What is left of an earlier call says so: it gives no wrong results, and takes no more items."""
    monkeypatch.setattr(helpers, "_pool", NoPool(works))
    earlier = helpers.ahead(lambda item: -item, range(items))
    assert next(earlier) == 0
    assert list(helpers.ahead(lambda item: item, range(3))) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="one call of these helpers at a time"):
        next(earlier)


def test_a_fork_waits_for_nobody_who_stayed_in_its_parent(helpers, before_settling):
    """What an interrupt left in the parent is not there in a child, whose next call begins at once."""
    work = AtWork(interrupted)

    def interrupt():
        raise KeyboardInterrupt

    before_settling.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        helpers.spread(work, begun_items(work, 3))
    done = []
    try:
        helpers._forked(at_rest=True)
        helpers.spread(done.append, [1])
        assert done == [1]
    finally:
        work.go.set()

"""Every operation with every fault in every state and home: it has happened or it has not, in memory and in the file."""

import contextlib
import shutil
import threading

import numpy as np
import pytest
from product import cells, every_cell, told, try_cells

import reverie as rv
from support.cells import Cell
from support.faults import Lines, SystemCalls
from support.recorder import library
from support.torn import Broken
from support.twin import LENGTHS, expected
from support.worlds import HOMES, STATES, World, arguments, copy_aside, difference, look

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(library() is None, reason="wanted the SQLite library within reach of ctypes"),
]


@pytest.mark.parametrize("seed", range(5))
def test_an_operation_has_happened_or_has_not(seed):
    """Of 160 cells of the product, memory and file are as before or as after, go on, and open again."""
    tried, broken = try_cells(cells(seed), 160)
    assert tried == 160
    assert not broken, told(broken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 108))
def test_more_of_the_product_holds(seed):
    """Of 2,500 more cells, none is broken."""
    tried, broken = try_cells(cells(seed), 2500)
    assert tried == 2500
    assert not broken, told(broken)


# --- the driver itself -------------------------------------------------------------------------------------


def a_tenth(scene: str, share: float = 0.1) -> dict[str, str]:
    """What broke of a tenth, or another share, of the cells of operation/state/home/fault."""
    return try_cells(every_cell(share, only=f"^{scene}$"))[1]


def test_it_notices_a_batch_that_is_added_step_by_step(monkeypatch):
    """Where lanes are added one after the other, an interrupt leaves some of them: cells are broken."""

    def one_by_one(self, *, streams, obs, action, reward, terminated, truncated, final_obs, latent, state):
        for lane, stream in enumerate(streams.tolist()):
            ends = bool(terminated[lane] or truncated[lane])
            self.add(obs={key: rows[lane] for key, rows in obs.items()}, action=action[lane], reward=reward.item(lane),
                     terminated=bool(terminated[lane]), truncated=bool(truncated[lane]), stream=stream, latent=latent[lane],
                     final_obs={key: rows[lane] for key, rows in final_obs.items()} if ends else None, state=state[lane])  # fmt: skip

    monkeypatch.setattr(rv.ReplayBuffer, "add_batch", one_by_one)
    assert a_tenth("add_batch/streams/ram/interrupt")


def test_it_notices_a_stretch_that_is_added_step_by_step(monkeypatch):
    """Where many steps are added one after the other, an interrupt leaves the first of them: cells are broken."""
    extend = rv.ReplayBuffer.extend

    def one_by_one(self, **steps):
        for place in range(len(steps["reward"])):
            extend(self, **{name: _rows(value, place) for name, value in steps.items()})

    monkeypatch.setattr(rv.ReplayBuffer, "extend", one_by_one)
    assert a_tenth("extend-few/filling/ram/interrupt", 0.03)
    assert a_tenth("extend-few/filling/ram-step/interrupt", 0.03)


def _rows(value, place):
    if isinstance(value, dict):
        return {name: _rows(child, place) for name, child in value.items()}
    return None if value is None else value[place : place + 1]


def test_it_notices_an_interrupt_that_is_swallowed(monkeypatch):
    """A call that returns has happened: where an interrupted add returns, cells are broken."""
    add = rv.ReplayBuffer.add

    def quiet(self, **step):
        with contextlib.suppress(KeyboardInterrupt):
            add(self, **step)

    monkeypatch.setattr(rv.ReplayBuffer, "add", quiet)
    assert a_tenth("add/filling/ram/interrupt")


def test_it_notices_a_refusal_that_has_changed_something(monkeypatch):
    """A call that is refused has not happened: where it cuts an episode all the same, cells are broken."""
    add = rv.ReplayBuffer.add

    def cutting(self, **step):
        try:
            add(self, **step)
        except rv.FileError:
            self.cut(0)
            raise

    monkeypatch.setattr(rv.ReplayBuffer, "add", cutting)
    assert try_cells(every_cell(only="^add/filling/ram-step/ENOSPC$"))[1]


def test_it_notices_a_lock_that_is_kept(monkeypatch):
    """Where an interrupted add keeps the lock, cells are broken, and the message names the lock."""
    add = rv.ReplayBuffer.add

    def keeping(self, **step):
        self.engine.lock.acquire()
        add(self, **step)
        self.engine.lock.release()

    monkeypatch.setattr(rv.ReplayBuffer, "add", keeping)
    broken = a_tenth("add/filling/ram/interrupt")
    assert broken
    assert all("waits for ever for the lock of the buffer" in text for text in broken.values())


def test_a_thread_that_gets_on_late_is_no_lock_that_is_kept(monkeypatch):
    """However long the machine lets a thread wait, a cell that holds is not broken: nothing there has a deadline."""

    class Late(threading.Thread):
        """A thread that gets on only when it is waited for without a limit."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._now = threading.Event()

        def run(self):
            self._now.wait()
            super().run()

        def join(self, timeout=None):
            if timeout is None:
                self._now.set()
                super().join()

    monkeypatch.setattr("support.buffers.threading.Thread", Late)
    assert Cell("cut/filling/ram/interrupt/9").run()


def test_a_copier_that_ends_is_told_of(tmp_path):
    """Where the process that copies files has ended, that is the error, and not the file that is missing then."""
    (tmp_path / "a").write_bytes(b"1")
    copy_aside(tmp_path / "a", tmp_path / "b")
    with pytest.raises(OSError, match="a copier that ended with status 1"):
        copy_aside(tmp_path / "a", tmp_path / "nowhere" / "b")
    copy_aside(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"1"


def test_a_cell_is_named_for_ever():
    """A cell does the same whenever it is run; one whose place lies beyond the end has nothing to fault."""
    assert [Cell("cut/filling/ram/interrupt/9").run() for _ in range(2)] == [True, True]
    assert not Cell("cut/filling/ram/interrupt/99999").run()


def test_an_interrupt_comes_at_each_line_in_turn():
    """As many lines as a call has, so many times it is interrupted, at another line each time."""
    lines = Lines(lambda: None)
    lines.run(lambda: rv.Field((3,), "uint8"))
    places = set()
    for at in range(1, lines.seen + 1):
        with pytest.raises(KeyboardInterrupt) as raised:
            Lines(lambda: KeyboardInterrupt, at).run(lambda: rv.Field((3,), "uint8"))
        frame = [entry for entry in raised.traceback if "reverie" in str(entry.path)][-1]
        places.add((frame.path, frame.lineno))
    assert len(places) > lines.seen / 2 > 2


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "EROFS"])
def test_a_system_call_fails_as_it_was_told(fault, tmp_path):
    """Each of the system calls of an add fails in turn, and the add is refused with this error's meaning."""
    calls = SystemCalls(tmp_path)
    with calls.watching():
        world = World(tmp_path, HOMES["ram-step"], STATES["full"]).build()
        refused = 0
        for at in range(1, 4):
            try:
                calls.run(lambda: world.buffer.add(**arguments(0, 85)), at, fault)
            except rv.FileError:
                refused += 1
            assert calls.came or at > 1
        assert refused
        world.buffer.close()


@pytest.mark.parametrize("home", ["packed", "disk-step"])
def test_an_undisturbed_buffer_is_as_its_twin(home, tmp_path):
    """In each state the whole of a buffer is seen as the twin has it, whose windows are counted one by one."""
    for number, (name, state) in enumerate(STATES.items()):
        if state.allows(HOMES[home]):
            (tmp_path / str(number)).mkdir()
            world = World(tmp_path / str(number), HOMES[home], state).build()
            twin = world.twin()
            assert not difference(look(world.buffer), expected(twin)), name
            assert expected(twin)["counts"].tolist() == [len(twin.windows(length)) for length in LENGTHS]
            assert len(np.unique(expected(twin)["id"])) > 0 or name == "empty"
            world.buffer.close()
            shutil.rmtree(tmp_path / str(number))


def test_a_step_that_differs_is_seen():
    """One number of one step is enough for a cell to be broken."""
    world = World(None, HOMES["ram"], STATES["full"]).build()
    twin = world.twin()
    twin.write_back("latent", 0, 50, [1.0, 2.0])
    assert "latent of step 50" in difference(look(world.buffer), expected(twin))
    assert issubclass(Broken, AssertionError)

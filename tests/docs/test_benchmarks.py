"""docs/benchmarks.md shows what the JSON holds, and what judges the peers judges rightly."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.harness import Copies, in_turn
from benchmarks.peers.detector import Windows, rows, sequences, valid_starts, wrongs
from benchmarks.peers.face import DROP_INS, PEERS, VARIANTS, Peer, Settings, adapter_of
from benchmarks.peers.pages import PAGE, read_results, show, show_cannot, show_drop_in, with_blocks
from benchmarks.peers.storing import as_trainers, drop_in_transposed
from benchmarks.peers.worker import DROP_IN_WORKLOADS, WORKLOADS
from benchmarks.peers.world import CHUNK, CODE_SHAPE, World, decoded, encoded

ROOT = Path(__file__).parents[2]
FOUND = read_results(ROOT / "benchmarks/results/peers.json")
NAMED = {
    "reverie",
    "torchrl",
    "sheeprl",
    "flashbax",
    "tianshou",
    "rllib",
    "reverb",
    "memmap",
    "simulusion",
    "cpprb",
    "sb3",
}


def test_the_page_shows_what_the_json_holds():
    """Every generated part of the page is what the JSON gives now."""
    page = (ROOT / PAGE).read_text()
    assert with_blocks(page, FOUND) == page


def test_every_cell_has_a_figure_or_words():
    """Nothing is left out silently: each peer was run, or is said not to install."""
    for variant in VARIANTS:
        if "missing" in FOUND["peers"][variant.peer]:
            continue
        for workload in WORKLOADS:
            assert show(FOUND["cells"][variant.name].get(workload), lambda cell: "") != "not run", (
                variant.name,
                workload,
            )


def test_every_dash_is_explained():
    """A cell without a figure is short, and the list says why, for every library."""
    told = {line[2:].split(":")[0]: line for line in show_cannot(FOUND)}
    for variant in VARIANTS:
        for workload, cell in FOUND["cells"][variant.name].items():
            reason = cell.get("cannot", cell.get("failed"))
            assert (show(cell, lambda cell: "a figure") == "–") == (reason is not None), (
                variant.name,
                workload,
            )
            if reason is not None:
                assert reason in told[variant.name]


def test_the_classes_of_one_name_are_measured_beside_each_other():
    """Frames, transposed frames and vectors were added to both, in the same way, and the page compares them."""
    assert set(FOUND["drop_in"]) == {variant.name for variant in DROP_INS}
    for cells in FOUND["drop_in"].values():
        assert {name for name, cell in cells.items() if "ratio" in cell} == set(DROP_IN_WORKLOADS)
    assert show_drop_in(FOUND)[-1].count("×") == len(DROP_IN_WORKLOADS)
    assert show_drop_in({})[-1].count("–") == len(DROP_IN_WORKLOADS)


def test_figures_come_with_their_limit():
    """A time stands beside a limit and a ratio, and says how many rounds it is the median of."""
    for cells in (*FOUND["cells"].values(), *FOUND["drop_in"].values()):
        for cell in cells.values():
            for timed in (cell, cell.get("save"), cell.get("load")):
                if timed and "seconds" in timed:
                    assert timed["limit_s"] > 0
                    assert timed["rounds"] >= 1
                    assert timed["ratio_low"] <= timed["ratio"] <= timed["ratio_high"]


def test_every_named_peer_has_an_adapter():
    """All adapters can be imported without their libraries, and have the same face."""
    assert set(PEERS) == NAMED
    for variant in (*VARIANTS, *DROP_INS):
        adapter = adapter_of(variant)
        assert issubclass(adapter, Peer)
        assert adapter.make is not Peer.make
        assert adapter.add is not Peer.add


# --- data ----------------------------------------------------------------------------------------------------------


def test_the_world_tells_where_it_is():
    """Observations name episode and step; ends, firsts and final observations fit them."""
    world = World(encoded, 5, 2, seed=3)
    steps = world.steps(200)
    written, episode, step = decoded(steps.obs[:, None])
    _, after_episode, after_step = decoded(steps.next_obs[:, None])
    assert written.all()
    assert (episode[:, 0] == steps.episode).all()
    assert (after_episode == episode).all()
    assert (after_step == step + 1).all()
    assert ((step[:, 0] == 0) == steps.first).all()
    ends = steps.terminated | steps.truncated
    assert (ends[:-1] == steps.first[1:]).all()
    assert not (steps.terminated & steps.truncated).any()
    assert steps.terminated.any()
    assert steps.truncated.any()
    lengths = np.bincount(steps.episode)[:-1]
    assert lengths.tolist() == world.lengths[: len(lengths)]


def test_the_world_goes_on_where_it_stopped():
    """Steps in chunks are the steps at once."""
    one, other = World(encoded, 30, 2), World(encoded, 30, 2)
    whole = one.steps(CHUNK)
    parts = [other.steps(count) for count in (1, 13, CHUNK - 14)]
    assert (np.concatenate([part.obs for part in parts]) == whole.obs).all()
    assert (np.concatenate([part.truncated for part in parts]) == whole.truncated).all()


def test_valid_starts_by_hand():
    """Episodes of 3, 4 and a running one of 2 of 9 steps; the newest 7 steps are held; windows of 3 observations."""
    lengths, newest = [3, 4, 9], (2, 1)
    held = {"live": 7, "count": 3}  # (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)
    assert valid_starts(lengths, newest, **held, crosses=False, keeps_final=False) == [(1, 0), (1, 1)]
    assert valid_starts(lengths, newest, **held, crosses=False, keeps_final=True) == [(1, 0), (1, 1), (1, 2)]
    assert valid_starts(lengths, newest, **held, crosses=True, keeps_final=False) == [
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
    ]


# --- the detector --------------------------------------------------------------------------------------------------


def seen(*addresses):
    """Return one window of encoded observations; None is a row that was never written."""
    never = np.zeros(CODE_SHAPE, np.uint8)
    shown = [never if address is None else encoded(*np.array([[*address, 0]]).T)[0] for address in addresses]
    return np.array([shown])


def faults(windows: Windows) -> set[str]:
    """Return what the detector finds."""
    found = wrongs(windows)
    return {
        name
        for name in ("crossing", "head", "successor", "unwritten", "broken")
        if getattr(found, name).any()
    }


@pytest.mark.parametrize(
    ("windows", "wanted"),
    [
        (rows(seen((4, 0), (4, 1), (4, 2))), set()),
        (rows(seen((4, 1), (5, 0), (5, 1))), {"crossing"}),
        (rows(seen((4, 1), (5, 0), (5, 1)), ends=[[True, False, False]]), set()),
        (rows(seen((4, 1), (5, 0), (5, 1)), first=[[False, True, False]]), set()),
        (rows(seen((4, 1), (5, 0), (5, 1)), ends=[[False, True, False]]), {"crossing"}),
        (rows(seen((9, 7), (3, 2), (3, 3))), {"head"}),
        (rows(seen((9, 7), (9, 2), (9, 3))), {"head"}),  # one episode longer than the buffer
        (rows(seen((4, 0), None, None)), {"unwritten"}),
        (rows(seen((4, 0), None, None), mask=np.array([[True, False, False]])), set()),
        (rows(seen((4, 0), (4, 0), (4, 1))), {"broken"}),
        (rows(seen((4, 0), (4, 2), (4, 3))), {"broken"}),
        (sequences(seen((4, 1), (4, 2), (5, 0)), ends=[[False, True]]), {"successor"}),
        (sequences(seen((4, 1), (4, 2), (4, 3)), ends=[[False, True]]), set()),
        (sequences(seen((4, 1), (4, 2), (5, 0)), ends=[[False, False]]), {"crossing"}),
        (
            sequences(
                seen((4, 1), (4, 2), (5, 0)), ends=[[False, True]], mask=np.array([[True, True, False]])
            ),
            set(),
        ),
    ],
)
def test_the_detector_by_hand(windows, wanted):
    """Each kind of wrong window is seen as what it is, and right ones are not seen."""
    assert faults(windows) == wanted


class Splicing:
    """A ring that draws anywhere, with no word of ends: deliberately wrong."""

    def __init__(self, capacity):
        self.obs = np.zeros((capacity, *CODE_SHAPE), np.uint8)
        self.ends = np.zeros(capacity, bool)
        self.head = 0

    def add(self, step):
        self.obs[self.head], self.ends[self.head] = step.obs, step.terminated
        self.head = (self.head + 1) % len(self.obs)

    def sample(self, count, length, rng):
        where = (rng.integers(0, len(self.obs), count)[:, None] + np.arange(length + 1)) % len(self.obs)
        return sequences(self.obs[where], self.ends[where][:, :-1])


def test_a_splicing_buffer_is_caught_in_every_column():
    """Truncations are crossed, ends are followed by a reset frame, the head is crossed, and empty rows are shown."""
    rng = np.random.default_rng(0)
    buffer, steps = Splicing(300), World(encoded, 20, 2).steps(450)
    for number in range(100):
        buffer.add(steps.at(number))
    assert "unwritten" in faults(buffer.sample(500, 10, rng))
    for number in range(100, 450):
        buffer.add(steps.at(number))
    windows = buffer.sample(5000, 10, rng)
    assert faults(windows) == {"crossing", "head", "successor"}
    assert (
        9 / 300 < wrongs(windows).head.mean() < 11.5 / 300
    )  # ten of 300 windows run over the seam, flagged or not


# --- timing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["slices", "take"])
def test_the_limit_copies_whole_windows(way):
    """Consecutive rows of the plain array lie in the target, wherever the windows begin."""
    copies = Copies(np.arange(70, dtype=np.float32).reshape(35, 2), 30, batch=50, length=4)
    copies.calls()[way]()
    assert copies.target.shape == (50, 5, 2)
    assert (np.diff(copies.target[:, :, 0], axis=1) == 2).all()
    starts = copies.target[:, 0, 0] / 2
    assert starts.min() == 0
    assert starts.max() == 25


def test_calls_take_turns():
    """No call is made twice in a row, warm-up rounds are left out, and a call may time itself."""
    made = []
    seconds = in_turn(
        {"a": lambda: made.append("a"), "b": lambda: made.append("b") or 7.0}, 4, 10.0, warm_up=2
    )
    assert made == ["a", "b"] * 6
    assert len(seconds["a"]) == 4
    assert seconds["b"].tolist() == [7.0] * 4


class Noting(Peer):
    """Keeps the first steps that are added to it."""

    def make(self, ask):
        self.ask, self.seen = ask, []

    def add(self, step):
        if len(self.seen) < 4:
            self.seen.append(step)


def test_steps_are_spelled_as_trainers_spell_them():
    """Python's numbers, one-hot vectors, and frames of the asked shape whose channels are last in memory."""
    peers = []
    drop_in_transposed(lambda: peers.append(Noting()) or peers[-1], Settings(rounds=1, budget_s=0.0, scale=1))
    assert peers[0].ask.obs_shape == (3, 64, 64)
    for step in peers[0].seen:
        assert (type(step.reward), type(step.terminated), type(step.truncated)) == (float, bool, bool)
        assert (step.action.dtype, sorted(step.action.tolist())) == (np.float32, [0, 0, 0, 0, 0, 1])
        assert (step.obs.shape, step.obs.strides) == ((3, 64, 64), (1, 192, 3))
    step = World(encoded, 5, 4).steps(1).at(0)
    assert as_trainers(step).action.argmax() == step.action.argmax()


def test_the_json_is_plain():
    """It can be read by anything: no NaN, no infinity."""
    json.loads((ROOT / "benchmarks/results/peers.json").read_text(), parse_constant=pytest.fail)

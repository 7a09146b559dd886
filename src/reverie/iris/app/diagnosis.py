"""The diagnosis of an agent: what each of its parts gets right, by how deep into the game it is.

The depth of a frame is the number of rewards before it. Every part is measured on whole games that the agent plays
anew. What a game shows is compared with what the tokenizer makes of it, with what the model imagines from one frame
on, as games to learn from begin, and with what the critic expects. Whoever knows the game can say more: an `Insight`
brings what to look for in a frame, and an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.table import Table

from reverie import BadSetting
from reverie.iris.app.dreams import to_bytes, visibly_wrong
from reverie.iris.app.recording import Bools, Floats, Ints, Recording, new_lanes, record
from reverie.iris.learning import Lane, Run, to_frames
from reverie.iris.models import Agent, Memory, draw
from reverie.pictures import Frames

# The least depth of each column. A column goes up to the next one.
DEPTHS = (0, 1, 2, 3, 4, 6, 8, 12)
COLUMNS = ("0", "1", "2", "3", "4-5", "6-7", "8-11", "12+")
PER_DEPTH = 200  # frames that are measured at each depth, at most
AHEAD = (1, 4, 8)  # steps after which an imagined frame is compared with the real one
BEFORE, SURVIVED = 6, 8  # steps before a real end from which is played on, and how many are to be survived
LANES = 32  # games played side by side, at most
TOKENIZER, MODEL, CHANCES = "tokenizer", "world model: frames", "world model: rewards and ends"
AGENT, ENDS = "critic and policy", "played on before an end"

Panels = dict[str, dict[str, Floats]]
Sights = Mapping[str, Callable[[Frames, Frames], Floats]]
"""Name -> whether shown frames have a thing where the real ones have it, both (B, C, H, W) uint8: (B,) float64, NaN
where the real one has none."""


class Insight(NamedTuple):
    """What somebody who knows the game looks at.

    Attributes:
        sights: what to look for in a frame.
        expert: returns good actions (B,) int64 for frames (B, C, H, W) uint8.
        still: an action that does nothing.
    """

    sights: Sights
    expert: Callable[[Frames], Ints]
    still: int


class Diagnosis(NamedTuple):
    """What was measured; every row has a number for each column, NaN where there was nothing to measure.

    Attributes:
        depths: the name of each column. frames: how many frames were recorded there.
        panels: part -> measure -> its means, (columns,). Shares are in 0..1, values are discounted rewards.
    """

    depths: tuple[str, ...]
    frames: tuple[int, ...]
    panels: Panels

    def table(self, title: str) -> Table:
        """Return all of it as a table for a terminal of 80 columns."""
        table = Table(
            "rewards so far", *self.depths, title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_row("frames", *map(str, self.frames))
        for part, measures in self.panels.items():
            table.add_row(f"[bold]{part}[/bold]")
            for name, values in measures.items():
                table.add_row(f"  {name}", *("" if np.isnan(value) else f"{value:.2f}" for value in values))
        for column in table.columns[1:]:
            column.justify = "right"
        return table


Player = Callable[[torch.Tensor, torch.Tensor, Memory], tuple[torch.Tensor, Memory]]
"""Takes frames (B, C, H, W) in 0..1 as they are, the same as the tokenizer shows them, and what it remembers; returns
actions (B,) and what it remembers then. Imagined frames are what the tokenizer shows."""


def diagnose(run: Run, *, episodes: int, insight: Insight | None = None) -> Diagnosis:
    """Return the diagnosis of a run's agent.

    Args:
        run: its agent plays new games, and nothing in it changes.
        episodes: how many games.
        insight: what is known of the game; without it there is no expert, and only whole frames are compared.

    Raises:
        BadSetting: fewer than one episode.
    """
    if episodes < 1:
        raise BadSetting(f"episodes: wanted at least 1, got {episodes}; raise it")
    agent = run.agent.eval()
    lanes = new_lanes(run, min(LANES, episodes))
    played = record(run, lanes, episodes=episodes)
    column = np.searchsorted(DEPTHS, played.depth, "right") - 1
    count = int(column.max()) + 1
    some = _balanced(column, np.ones(len(played), np.bool_), run.seed)
    sights = dict(insight.sights) if insight else {}
    panels = {
        TOKENIZER: _by_column(_tokenized(agent, played, some, sights), column[some], count),
        MODEL: _by_column(_imagined(agent, played, some, sights, run.seed), column[some], count),
        CHANCES: _foretold(agent, played, column, count, run.seed),
        AGENT: _by_column(_judged(played, insight), column, count),
        ENDS: _survived(run, lanes, played, column, count, insight),
    }
    frames = np.bincount(column, minlength=count).tolist()
    return Diagnosis(COLUMNS[:count], tuple(frames), panels)


def _balanced(column: Ints, among: Bools, seed: int) -> Ints:
    """Return the steps to be measured, (n,): of those allowed, PER_DEPTH of each column, or all there are."""
    rng = np.random.default_rng(seed)
    steps = [
        rng.permutation(np.flatnonzero(among & (column == one)))[:PER_DEPTH] for one in np.unique(column)
    ]
    return np.sort(np.concatenate(steps)).astype(np.int64)


def _by_column(measures: Mapping[str, Floats], column: Ints, count: int) -> dict[str, Floats]:
    """Return the mean of each measure (n,) in each column, NaN aside: (count,)."""
    means = {}
    for name, values in measures.items():
        known = ~np.isnan(values)
        total = np.bincount(column[known], values[known], count)
        means[name] = np.full(count, np.nan)
        np.divide(
            total, counts := np.bincount(column[known], minlength=count), out=means[name], where=counts > 0
        )
    return means


def _compared(shown: Frames, real: Frames, sights: Sights) -> dict[str, Floats]:
    """Return whether each frame is right everywhere, and whether things are where they should be."""
    exact: Floats = (~visibly_wrong(shown, real)).all((1, 2)) * np.ones(len(real))
    return {"frame exact": exact, **{name: see(shown, real) for name, see in sights.items()}}


def _tokenized(agent: Agent, played: Recording, some: Ints, sights: Sights) -> dict[str, Floats]:
    real = played.frames[some]
    return _compared(to_bytes(agent.tokenizer.encode_decode(to_frames(real, agent.device))), real, sights)


def _imagined(
    agent: Agent,
    played: Recording,
    some: Ints,
    sights: Sights,
    seed: int,
) -> dict[str, Floats]:
    """Return how right imagined frames are after some steps with the actions that were really taken."""
    game = agent.new_game(torch.Generator(agent.device).manual_seed(seed))
    game.reset(to_frames(played.frames[some], agent.device))
    told: dict[str, Floats] = {}
    last = len(played) - 1
    for step in range(max(AHEAD)):
        action = torch.from_numpy(played.action[np.minimum(some + step, last)]).to(agent.device)
        frame = game.step(action).frame
        if step + 1 in AHEAD:
            real = played.frames[np.minimum(some + step + 1, last)]
            there = played.left[some] > step + 1  # the episode goes on for so long
            for name, right in _compared(to_bytes(frame), real, sights).items():
                told[f"{name}, {step + 1} ahead"] = np.where(there, right, np.nan)
    return told


@torch.no_grad()
def _foretold(agent: Agent, played: Recording, column: Ints, count: int, seed: int) -> dict[str, Floats]:
    """Return the chances that the model gives to rewards and ends, where they came and where they did not."""
    rewarded = played.reward != 0
    places = {"came": (rewarded, played.end), "came not": (~rewarded, ~played.end)}
    means: dict[str, Floats] = {}
    for name, (for_rewards, for_ends) in places.items():
        steps = _balanced(column, for_rewards, seed)
        reward = _chances(agent, played, steps)[0]
        sign = (np.sign(played.reward[steps]) + 1).astype(np.int64)
        told = reward[np.arange(len(steps)), sign] if name == "came" else 1 - reward[:, 1]
        means |= _by_column({f"chance of the reward that {name}": told}, column[steps], count)
        steps = _balanced(column, for_ends, seed)
        end = _chances(agent, played, steps)[1]
        means |= _by_column({f"chance of the end that {name}": end[:, 1]}, column[steps], count)
    return means


def _chances(agent: Agent, played: Recording, steps: Ints) -> tuple[Floats, Floats]:
    """Return the model's chances of rewards -1, 0 and 1, (n, 3), and of no end and an end, (n, 2), at steps (n,)."""
    if not len(steps):  # the networks want at least one
        return np.zeros((0, 3)), np.zeros((0, 2))
    tokens = agent.tokenizer.encode(to_frames(played.frames[steps], agent.device)).tokens
    action = torch.from_numpy(played.action[steps]).to(agent.device)
    told = agent.world_model(torch.cat((tokens, action.unsqueeze(1)), 1))
    reward, end = (logits[:, 0].softmax(1).cpu().double().numpy() for logits in (told.reward, told.end))
    return reward, end


def _judged(played: Recording, insight: Insight | None) -> dict[str, Floats]:
    """Return what critic and policy think of every step."""
    told = {"value": played.value, "worth": played.worth, "error": np.abs(played.value - played.worth)}
    told["entropy"] = played.entropy
    if insight is not None:
        told["acts as the expert"] = (insight.expert(played.frames) == played.action).astype(np.float64)
    return told


def _survived(
    run: Run, lanes: Sequence[Lane], played: Recording, column: Ints, count: int, insight: Insight | None
) -> dict[str, Floats]:
    """Return who survives the next steps from shortly before a real end, in the game and in the model."""
    ends = [one for one in played.episodes if one.ended and one.stop - one.start > BEFORE]
    if not ends:
        return {}
    steps = np.array([one.stop - BEFORE for one in ends])
    told = {}
    for name, player in _players(run, insight).items():
        there = [_in_the_game(run.agent, player, lanes[one.lane], one.state_before(BEFORE), _of(played, [step]))
                 for one, step in zip(ends, steps, strict=True)]  # fmt: skip
        told[f"{name}, game"] = np.array(there, np.float64)
        told[f"{name}, model"] = _in_the_model(run.agent, player, played, steps, run.seed)
    return _by_column(told, column[steps], count)


def _players(run: Run, insight: Insight | None) -> dict[str, Player]:
    agent = run.agent
    generator = torch.Generator(agent.device).manual_seed(run.seed)

    def policy(seen: torch.Tensor, shown: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        logits, _, memory = agent.actor_critic(shown, memory)
        return draw(logits, run.config.evaluation.temperature, generator), memory

    def by_chance(seen: torch.Tensor, shown: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        chance = torch.zeros(len(shown), agent.num_actions, device=shown.device)
        return draw(chance, generator=generator), memory

    if insight is None:
        return {"policy": policy, "chance": by_chance}

    def expert(seen: torch.Tensor, shown: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        return torch.from_numpy(insight.expert(to_bytes(seen))).to(seen.device), memory

    def still(seen: torch.Tensor, shown: torch.Tensor, memory: Memory) -> tuple[torch.Tensor, Memory]:
        return torch.full((len(shown),), insight.still, device=shown.device), memory

    return {"expert": expert, "policy": policy, "still": still}


def _of(played: Recording, steps: Sequence[int] | Ints) -> Memory:
    return Memory(played.memory.hidden[steps], played.memory.cell[steps])


@torch.no_grad()
def _in_the_game(agent: Agent, player: Player, lane: Lane, state: dict[str, object], memory: Memory) -> bool:
    """Put a game back to where it was, play on, and return whether it did not end."""
    lane.load(state)
    memory = Memory(*(part.to(agent.device) for part in memory))
    for _ in range(SURVIVED):
        seen = to_frames(lane.obs[None], agent.device)
        action, memory = player(seen, agent.tokenizer.encode_decode(seen), memory)
        _, terminated, truncated = lane.step(int(action))
        if terminated or truncated:
            return False
    return True


@torch.no_grad()
def _in_the_model(agent: Agent, player: Player, played: Recording, steps: Ints, seed: int) -> Floats:
    """Play on from these steps in imagination, and return which games did not end: (n,) float64, 0 or 1."""
    game = agent.new_game(torch.Generator(agent.device).manual_seed(seed))
    shown = game.reset(to_frames(played.frames[steps], agent.device))
    memory = Memory(*(part.to(agent.device) for part in _of(played, steps)))
    alive = torch.ones(len(steps), dtype=torch.bool, device=agent.device)
    for _ in range(SURVIVED):
        action, memory = player(shown, shown, memory)
        shown, _, end = game.step(action)
        alive &= ~end
    return alive.cpu().double().numpy()

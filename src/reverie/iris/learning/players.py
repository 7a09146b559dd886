"""Playing in several processes: actors of Ray play with the newest weights into shards, while one process learns."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reverie import BadSetting, NoAnswer, ReplayBuffer, ReplayError
from reverie.errors import need
from reverie.iris.config import Config
from reverie.iris.learning.collect import Collector, Played
from reverie.iris.learning.folder import CHECKPOINT, reading
from reverie.iris.learning.games import Games
from reverie.iris.models import Agent
from reverie.ray import ShardedBuffer, Writer
from reverie.spec import StepSpec

GONE_S = 120.0  # how long a player may be away, dead or being started, before nobody waits for it any more
AGAIN_S = 0.2  # how long Ray is given before a player that died is asked again
LOOK_S = 1.0  # how long one look at the players takes at most
KEPT_STEPS = 1000  # of the newest episodes, in the file that dreams are drawn from


class Team(NamedTuple):
    """How many processes play, and over how many files their steps are spread.

    Attributes:
        players: processes; each plays the same number of the run's environments.
        shards: replay files, each in an actor of its own.
    """

    players: int
    shards: int = 1

    def check(self, config: Config) -> None:
        """Refuse a configuration whose games or steps cannot be shared out.

        Raises:
            BadSetting: a number of the team is below 1, or does not divide the environments or the capacity.
        """
        games, capacity = config.collection.environments, config.collection.capacity
        for name, count in (("ray_actors", self.players), ("ray_shards", self.shards)):
            if count < 1 or games % count:
                raise BadSetting(
                    f"{name}: wanted a number that divides the {games} environments, got {count}; choose another, or "
                    f"pass --collection.environments with a multiple of it"
                )
        if capacity % self.shards:
            raise BadSetting(
                f"ray_shards: wanted a number that divides the capacity of {capacity} steps, got {self.shards}; choose "
                f"another"
            )


def team_of(folder: Path, kept: str, team: Team | None) -> Team | None:
    """Return the team that a run goes on with; None if it is one of one process.

    Args:
        folder: of the run. kept: what its checkpoint holds of whoever collects. team: the one that is asked for.

    Raises:
        BadSetting: the run has no team, or one with other shards. FileError: the checkpoint is damaged.
    """
    with reading(folder / CHECKPOINT):
        state = json.loads(kept)
        before = Team(int(state["players"]), int(state["shards"])) if "players" in state else None
    if team is None or (before is not None and team.shards == before.shards):
        return team or before
    if before is None:
        raise BadSetting(
            f"ray_actors: wanted 0, for {folder} was started without them and its replay is one file, got "
            f"{team.players}; leave the flag out, or start another run"
        )
    raise BadSetting(
        f"ray_shards: wanted {before.shards}, as {folder} was started with, got {team.shards}; leave the flag out"
    )


class Streams:
    """Takes the steps of several games side by side, as a replay does, and hands each to the writer of its stream."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self.writers = list(writers)

    @property
    def streams(self) -> int:
        """How many games there are."""
        return len(self.writers)

    def add_batch(self, *, obs: Any, action: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """Put one step of each game into its writer's batch; every array begins with (streams,)."""
        for number, writer in enumerate(self.writers):
            writer.add(
                obs=obs[number],
                action=action[number],
                reward=float(reward[number]),
                terminated=bool(terminated[number]),
                truncated=bool(truncated[number]),
            )

    def cut(self, stream: int) -> None:
        """End the running episode of a game: the recording stopped here."""
        self.writers[stream].cut()

    def heads(self) -> list[int]:
        """Return the id of the next step of each stream, once the shards have acknowledged all before it."""
        for writer in self.writers:
            writer.flush()
        return [writer.claim() for writer in self.writers]


class Player:
    """What runs in an actor: some games, and a copy of the policy.

    Ray makes it again when its process dies. It then takes its streams over, which cuts their episodes, and begins
    new games: their seed follows from how far the streams are.
    """

    def __init__(self, config: Config, games: Games, actions: int, seed: tuple[int, ...]) -> None:
        torch.set_num_threads(1)
        self._agent, self._games, self._seed = Agent(config, actions), games, seed
        self._streams: Streams
        self._collector: Collector | None = None

    def begin(self, writers: Sequence[Writer]) -> tuple[int, list[int]]:
        """Take the streams and begin games, if it has none; return this process, and the next id of each stream.

        The writers come with a call: what an actor's constructor is given may be gone when Ray makes it again.
        """
        if self._collector is None:
            self._streams = Streams(writers)
            number = int(np.random.SeedSequence([*self._seed, *self._streams.heads()]).generate_state(1)[0])
            torch.manual_seed(number)
            playing = [self._games(True) for _ in writers]
            self._collector = Collector(self._agent, playing, self._streams, seed=number)
        return os.getpid(), self._streams.heads()

    def play(
        self,
        writers: Sequence[Writer],
        weights: dict[str, Any],
        goals: list[int],
        epsilon: float,
        temperature: float,
    ) -> tuple[int, Played]:
        """Play until each stream has come to its goal; a second call with the same goals plays what is missing."""
        process, heads = self.begin(writers)
        assert self._collector is not None
        self._agent.load_state_dict(weights)
        rows = max(0, *(goal - head for goal, head in zip(goals, heads, strict=True)))
        played = self._collector.collect(rows * len(heads), epsilon=epsilon, temperature=temperature)
        self._streams.heads()
        return process, played


class Asked(NamedTuple):
    """What the players were asked for last.

    Attributes:
        weights: of the policy, in Ray's store. goals: for each player, how far its streams are to come.
        steps: over all streams. epsilon, temperature: as in `Collector.collect`.
    """

    weights: Any
    goals: list[list[int]]
    steps: int
    epsilon: float
    temperature: float


class Players:
    """Collects with several processes; it stands where a `Collector` stands in a run of one process.

    `begin` asks for steps and returns at once; `collect` returns when they are there. So the players may be ahead of
    the learner by one request and no more.

    Args:
        agent: whose weights the players get with each request.
        games: makes the games, in the processes of the players.
        spec: of the steps.
        folder: of the shards' files; those that are there go on.
        team: how many.
        seed: fixes what each player draws, but not which weights it has when.

    Attributes:
        buffer: what all of them write to.
        processes: of the players, as they were last heard of. restarts: of each player, so far.

    Raises:
        ModuleNotFoundError: Ray is not installed. BadSetting: the games cannot be shared out so.
        Whatever `ShardedBuffer` raises.
    """

    def __init__(
        self, agent: Agent, games: Games, spec: StepSpec, folder: Path, team: Team, seed: int
    ) -> None:
        need("ray")
        import ray

        collection = agent.config.collection
        team.check(agent.config)
        self.agent, self.team, self._ray = agent, team, ray
        self.processes, self.restarts = [0] * team.players, [0] * team.players
        self._actors: list[Any] = []
        self._writers: list[list[Writer]] = []
        self._away: dict[int, float] = {}  # player -> since when
        self._asked: Asked | None = None
        self._waiting: dict[Any, int] = {}  # call -> player
        self._own = not ray.is_initialized()
        if self._own:
            _start(ray, team)
        try:
            self.buffer = ShardedBuffer(
                spec,
                collection.capacity,
                shards=team.shards,
                streams_per_shard=collection.environments // team.shards,
                directory=folder,
                seed=seed,
            )
        except BaseException:
            self._leave()
            raise
        try:
            self._hire(games, seed)
        except BaseException:
            self.close()
            raise

    def _hire(self, games: Games, seed: int) -> None:
        each = self.buffer.streams // self.team.players
        hired = self._ray.remote(max_restarts=-1)(Player)
        for number in range(self.team.players):
            writers = [
                self.buffer.writer(stream, take_over=True)
                for stream in range(number * each, (number + 1) * each)
            ]
            self._writers.append(writers)
            actor = hired.remote(self.agent.config, games, self.agent.num_actions, (seed, number))
            self._actors.append(actor)
        self._waiting = {self._start_of(number): number for number in range(self.team.players)}
        begun = self._answers(self._start_of)
        self.processes = [process for process, _ in begun]
        self._goals = [heads for _, heads in begun]

    def _start_of(self, number: int) -> Any:
        return self._actors[number].begin.remote(self._writers[number])

    def begin(self, steps: int, *, epsilon: float, temperature: float = 1.0) -> None:
        """Send the present weights, and ask for `steps` steps over all streams."""
        rows = steps // self.buffer.streams
        self._goals = [[goal + rows for goal in goals] for goals in self._goals]
        weights = {name: value.detach().cpu() for name, value in self.agent.state_dict().items()}
        self._asked = Asked(self._ray.put(weights), self._goals, steps, epsilon, temperature)
        self._waiting = {self._ask(number): number for number in range(self.team.players)}

    def _ask(self, number: int) -> Any:
        asked = self._asked
        assert asked is not None
        return self._actors[number].play.remote(
            self._writers[number], asked.weights, asked.goals[number], asked.epsilon, asked.temperature
        )

    def collect(
        self,
        steps: int,
        *,
        epsilon: float,
        temperature: float = 1.0,
        on_step: Callable[[int], None] | None = None,
    ) -> Played:
        """Wait for the steps that were asked for, or ask now; return the episodes that ended, player by player.

        Args:
            steps, epsilon, temperature: as in `begin`, whose own count where it was called.
            on_step: called with the number of steps of the players that are done.

        Raises:
            NoAnswer: a player died and did not come back. Errors of a game are raised as they are.
        """
        if self._asked is None:
            self.begin(steps, epsilon=epsilon, temperature=temperature)
        assert self._asked is not None
        share = self._asked.steps // self.team.players
        told = self._answers(self._ask, lambda done: on_step(done * share) if on_step else None)
        self._asked = None
        for number, (process, _) in enumerate(told):
            self.restarts[number] += process != self.processes[number]
            self.processes[number] = process
        return Played(
            tuple(amount for _, played in told for amount in played.returns),
            tuple(length for _, played in told for length in played.lengths),
        )

    def _answers(
        self, ask: Callable[[int], Any], on_one: Callable[[int], None] = lambda done: None
    ) -> list[Any]:
        """Return what each player answers; one whose process dies is asked again.

        Args:
            ask: asks a player. on_one: called with how many have answered.
        """
        came: dict[int, Any] = {}
        while self._waiting:
            for call in self._ray.wait(list(self._waiting), num_returns=1, timeout=LOOK_S)[0]:
                number = self._waiting.pop(call)
                try:
                    came[number] = self._ray.get(call)
                    self._away.pop(number, None)
                except self._ray.exceptions.RayActorError as error:
                    self._check_away(number, error)
                    self._waiting[ask(number)] = number
                except self._ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, ReplayError):
                        raise error.cause from error
                    raise
                on_one(len(came))
        return [came[number] for number in range(self.team.players)]

    def _check_away(self, number: int, error: Exception) -> None:
        """Give Ray time to start a player again whose process died.

        Raises:
            NoAnswer: it has had enough, or could not even begin.
        """
        if any(isinstance(each, self._ray.exceptions.RayTaskError) for each in error.args):
            raise NoAnswer(
                f"player {number}: wanted a process that plays, got one that could not be made; see the error above, "
                f"and that the packages of the game are there for other processes, too"
            ) from error
        if time.monotonic() - self._away.setdefault(number, time.monotonic()) > GONE_S:
            raise NoAnswer(
                f"player {number}: wanted a process that plays, got none for {GONE_S:g} seconds, since it died; see "
                f"why (ray list actors, and that the game can be made in another process), then resume the run"
            ) from error
        time.sleep(AGAIN_S)

    def save(self) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
        """Return what tells a checkpoint that the steps are in shards. The games themselves are not kept."""
        return self.team._asdict(), np.zeros(0, np.uint8)

    def keep(self, path: Path) -> None:
        """Make the shards survive a loss of power, and write some of the newest episodes to a replay file of their own.

        The file is for dreams and reports; a run goes on from the shards.
        """
        self.buffer.flush()
        table = self.buffer.episodes
        newest = np.argsort(-table["start"], kind="stable")
        enough = int(np.searchsorted(np.cumsum(table["length"][newest]), KEPT_STEPS)) + 1
        episodes = list(self.buffer.read_episodes(newest[:enough].tolist()))
        excerpt = ReplayBuffer(self.buffer.spec, max(1, sum(len(episode.reward) for episode in episodes)))
        for episode in episodes:
            length = len(episode.reward)
            last = np.arange(length) == length - 1
            excerpt.extend(
                obs=episode.obs,
                action=episode.action,
                reward=episode.reward,
                terminated=last & episode.terminated,
                truncated=last & episode.truncated,
            )
            excerpt.cut()
        path.unlink(missing_ok=True)  # an excerpt of two epochs ago, which no checkpoint names any more
        excerpt.save_as(path)
        excerpt.close()

    def close(self) -> None:
        """End the players, close the shards' files, and end the cluster if it was started here."""
        actors, self._actors = self._actors, []
        for actor in actors:
            self._ray.kill(actor)
        try:
            self.buffer.stop()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._own:
            self._ray.shutdown()


def _start(ray: Any, team: Team) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine."""
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        count = team.players + team.shards
        ray.init(address="local", num_cpus=count, include_dashboard=False, log_to_driver=False)

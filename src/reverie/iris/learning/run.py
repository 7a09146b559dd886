"""A run of IRIS: epochs of playing, learning and testing. It lies in a folder, from which it goes on after any end.

The folder holds `checkpoint.pt` with everything but the replay, a replay file for each of the last two
checkpoints, and what the commands write beside them. A checkpoint is complete or not there: it takes its place
in one move, after the replay that it names. So a killed run loses only the epoch it was in. An interrupted run
equals an uninterrupted one, bit for bit on a processor with as many threads, if its games are fixed by their
seeds and the actions. That holds for one process; a team of several plays as fast as it can.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import reverie
from reverie import BadSetting, Field, ReplayBuffer, StepSpec
from reverie.iris.config import Config, config_from_json, config_to_json, prolonged
from reverie.iris.learning.collect import Collector, Played, evaluate
from reverie.iris.learning.folder import CHECKPOINT, RunFolder, read_checkpoint, reading, replay_of
from reverie.iris.learning.games import Game, Games, check_game, count_actions
from reverie.iris.learning.learner import Learner, Metrics, Watch
from reverie.iris.learning.players import Players, Team, team_of
from reverie.iris.learning.tokens import Replay
from reverie.iris.models import Agent, Perceptual, usable_device

SHARDS = "shards"  # the folder of a team's replay, in that of the run


def _spec(config: Config) -> StepSpec:
    return StepSpec(Field(config.tokenizer.frame, "uint8"), Field((), "int64"))


def new_replay(config: Config, seed: int) -> ReplayBuffer:
    """Return the empty replay of a run."""
    spec = _spec(config)
    collection = config.collection
    return ReplayBuffer(spec, collection.capacity, streams=collection.environments, seed=seed)


class Run:
    """A run in a folder; `start` begins one, `resume` goes on with one, `read` looks at one.

    Args:
        folder: of the run.
        config: its numbers.
        games: makes the games.
        seed: fixes every random choice; PyTorch's generator is seeded with it.
        device: where the models live.
        game: its name, for whoever finds the folder.
        perceptual: the distance that "perceptual" reconstruction adds.

    Attributes:
        done: epochs that are over. steps: of real games.
        cut: the numbers of the games that took another course when `resume` played them again.

    Raises:
        BadSetting: no such device, or a game that does not fit the configuration.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        games: Games,
        *,
        seed: int = 0,
        device: str = "cpu",
        game: str = "",
        perceptual: Perceptual | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.games = games
        self.game = game
        self.seed = seed
        self.done = 0
        self.steps = 0
        self.cut: list[int] = []
        self._held = ExitStack()  # what is to be let go of
        self._files: RunFolder | None = None  # none if nothing will be written
        where = usable_device(device)
        with self._closed_on_error():
            self._playing, self._testing = [self.new_game(True)], [self.new_game(False)]
            actions = count_actions(self._playing[0])
            for one in (self._playing[0], self._testing[0]):  # before there are dozens
                check_game(one, one.reset(seed=seed)[0], config.tokenizer.frame, actions)
            while len(self._playing) < config.collection.environments:
                self._playing.append(self.new_game(True))
        torch.manual_seed(seed)
        self.agent = Agent(config, actions).to(where)
        self.learner = Learner(self.agent, perceptual)
        self.buffer: Replay
        self.collector: Collector | Players

    @classmethod
    def start(
        cls, folder: Path, config: Config, games: Games, *, team: Team | None = None, **settings: Any
    ) -> Run:
        """Return a new run in a folder that is made, or holds none yet; settings as in the constructor.

        Args:
            team: processes that play while this one learns; None plays here, between the updates.

        Raises:
            BadSetting: there is a run already, or something does not fit; the folder is then as it was.
        """
        if (folder / CHECKPOINT).exists():
            raise BadSetting(
                f"run: wanted a folder without a run, got {folder}; resume it, or choose another"
            )
        if team is not None:
            _check_new(folder, team, config)
        self = cls(folder, config, games, **settings)
        with self._closed_on_error():
            if team is None:
                self._use(new_replay(config, self.seed))
            self._claim()
            if team is not None:
                self._share(team)
        return self

    @classmethod
    def resume(
        cls,
        folder: Path,
        games: Games,
        *,
        epochs: int | None = None,
        team: Team | None = None,
        **settings: Any,
    ) -> Run:
        """Return the run of a folder as it was after its last whole epoch.

        The games are played again up to where they were. One that takes another course is cut there. A team goes
        on with its shards and new games.

        Args:
            folder: of the run, which knows its configuration, seed and game.
            games: makes the games.
            epochs: how many the run is to have, those done included; None is as it was started.
            team: that plays on; None is as it was. It may have more players or fewer, but not other shards.
            **settings: `device` and `perceptual`, as in the constructor.

        Raises:
            BadSetting: there is no run, more epochs are done, another process trains there, or the game has
                other frames or actions. FileError: its checkpoint is none or damaged, or its replay is not there.
                The folder is then as it was.
        """
        state = read_checkpoint(folder)
        team = team_of(folder, state["collector"], team)
        self = cls._from(state, folder, games, epochs, **settings)
        if team is not None:
            with self._closed_on_error():
                self._claim()
                self._share(team)
                with reading(folder / CHECKPOINT):
                    self._load(state)
            return self
        with self._closed_on_error():
            # The named file stays as it is until the next checkpoint; what is played goes to a copy.
            live = self._claim().copy(replay_of(folder, state["replay"]))
            # The games are put back to where they were, so their episodes may go on.
            self._use(reverie.open(live, residency="ram", episodes="continue"))
            with reading(folder / CHECKPOINT):
                self._load(state)
        return self

    @classmethod
    def read(cls, folder: Path, games: Games, **settings: Any) -> Run:
        """Return the run of a folder to test it and to dream with it; it does not go on.

        Nothing in the folder changes, and another process may train there meanwhile. Arguments and errors are
        those of `resume`.
        """
        return cls._from(read_checkpoint(folder), folder, games, None, **settings)

    @classmethod
    def _from(
        cls, state: dict[str, Any], folder: Path, games: Games, epochs: int | None, **settings: Any
    ) -> Run:
        """Return a run with the weights of a checkpoint, and without a replay."""
        config = config_from_json(state["config"])
        config = config if epochs is None else prolonged(config, state["epoch"], epochs)
        self = cls(folder, config, games, seed=state["seed"], game=state["game"], **settings)
        with self._closed_on_error():
            with reading(folder / CHECKPOINT):
                known = len(state["agent"]["actor_critic.actor.weight"])
            check_game(
                self._playing[0], self._playing[0].reset(seed=self.seed)[0], config.tokenizer.frame, known
            )
            with reading(folder / CHECKPOINT):
                self.agent.load_state_dict(state["agent"])
        self.done, self.steps = state["epoch"], state["steps"]
        return self

    def _load(self, state: dict[str, Any]) -> None:
        """Take back what a checkpoint holds beside the weights, the replay and how far the run had come."""
        self.learner.load(state["optimisers"])
        if isinstance(self.collector, Collector):
            self.cut = self.collector.load(json.loads(state["collector"]), state["frames"].numpy())
        torch.set_rng_state(state["chance"])
        if self.agent.device.type == "cuda":
            torch.cuda.set_rng_state(state["chance_there"], self.agent.device)

    def epoch(self, watch: Watch | None = None) -> Metrics:
        """Play, learn, test and keep one epoch; return its metrics.

        Args:
            watch: called after every step and update.

        Raises:
            BadSetting: the run was opened by `read`, or all its epochs are done.
        """
        if self._files is None:
            raise BadSetting("epoch: wanted a run from start or resume, got one from read; resume it")
        if self.done >= self.config.epochs:
            raise BadSetting(
                f"epoch: wanted fewer than {self.config.epochs} done, got {self.done}; resume the run with more epochs"
            )
        watch = watch or (lambda phase, done, total: None)
        began = perf_counter()
        number, metrics = self.done + 1, Metrics(epoch=self.done + 1)
        metrics |= self._play(number, watch)
        metrics |= self.learner.epoch(self.buffer, number, watch)
        if number % self.config.evaluation.every == 0 or number == self.config.epochs:
            tested = perf_counter()
            metrics |= _told("test", self.test(watch))
            metrics["test/duration_s"] = perf_counter() - tested
        metrics["duration_s"] = perf_counter() - began
        self.done = number
        self.save()
        return metrics

    def test(self, watch: Watch | None = None, *, episodes: int | None = None) -> Played:
        """Return the episodes of a test of the policy as it is; `episodes` replaces the configured number."""
        settings = self.config.evaluation
        while len(self._testing) < settings.environments:
            self._testing.append(self.new_game(False))
        if watch is not None:
            watch("test", 0, 1)
        return evaluate(
            self.agent,
            self._testing,
            episodes=settings.episodes if episodes is None else episodes,
            temperature=settings.temperature,
            seed=self.seed,
            max_steps=settings.max_steps,
        )

    def save(self) -> None:
        """Write what the run goes on from: first the replay, then the checkpoint that names it."""
        assert self._files is not None, "a run that only reads saves nothing"
        collector, frames = self.collector.save()
        replay = self._files.replay(self.done)
        self.collector.keep(replay)
        there = self.agent.device
        state = {
            "seed": self.seed,
            "game": self.game,
            "config": config_to_json(self.config),
            "replay": replay.name,
            "epoch": self.done,
            "steps": self.steps,
            "agent": self.agent.state_dict(),
            "optimisers": self.learner.save(),
            "collector": json.dumps(collector),
            "frames": torch.from_numpy(frames),
            "chance": torch.get_rng_state(),
            "chance_there": torch.cuda.get_rng_state(there) if there.type == "cuda" else None,
        }
        content = io.BytesIO()  # in memory first, so that errors of the disk come from one place
        torch.save(state, content)
        self._files.put(content.getbuffer())
        self._files.tidy()

    def close(self) -> None:
        """Let go of the games, of the replay and of the folder."""
        self._held.close()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def new_game(self, training: bool) -> Game:
        """Return another game, for training or for testing; it is closed with the run."""
        game = self.games(training)
        self._held.callback(game.close)
        return game

    def _claim(self) -> RunFolder:
        self._files = files = RunFolder(self.folder)
        self._held.callback(files.release)
        return files

    def _use(self, buffer: ReplayBuffer) -> None:
        self._held.callback(buffer.close)  # before the folder is let go of
        self.buffer = buffer
        self.collector = Collector(self.agent, self._playing, buffer, seed=self.seed)

    def _share(self, team: Team) -> None:
        self._held.callback(_forget_shards, self.folder)  # once they are closed
        spec, folder = _spec(self.config), self.folder / SHARDS
        self.collector = players = Players(self.agent, self.games, spec, folder, team, self.seed)
        self._held.callback(players.close)  # before the folder is let go of
        self.buffer = players.buffer

    def _play(self, epoch: int, watch: Watch) -> Metrics:
        collection = self.config.collection
        steps, epsilon = collection.steps_in(epoch), collection.epsilon_in(epoch, self.config.epochs)
        if not steps:
            return {}
        began = perf_counter()
        played = self.collector.collect(
            steps,
            epsilon=epsilon,
            temperature=collection.temperature,
            on_step=lambda done: watch("play", done, steps),
        )
        self.steps += steps
        duration = perf_counter() - began
        restarts: Metrics = {}
        if isinstance(self.collector, Players):
            restarts = {
                f"play/restarts_{n}": count for n, count in enumerate(self.collector.restarts) if count
            }
            _ahead(self.collector, self.config, epoch + 1)
        return {
            "steps": self.steps,
            "epsilon": epsilon,
            **restarts,
            **_told("play", played),
            "play/duration_s": duration,
            "play/steps_per_s": steps / duration,
        }


def _ahead(players: Players, config: Config, epoch: int) -> None:
    """Let a team play for the next epoch, if it plays, while this process learns."""
    collection = config.collection
    steps = collection.steps_in(epoch)
    if steps and epoch <= config.epochs:
        epsilon = collection.epsilon_in(epoch, config.epochs)
        players.begin(steps, epsilon=epsilon, temperature=collection.temperature)


def _check_new(folder: Path, team: Team, config: Config) -> None:
    """Refuse a team that does not fit, and shards that are there: they may be of another game, or somebody's own."""
    team.check(config)
    if (folder / SHARDS).exists():
        raise BadSetting(
            f"run: wanted a folder without {SHARDS}, got {folder / SHARDS}, which no checkpoint names; if a run that "
            f"kept no epoch left it, remove it, else choose another folder"
        )


def _forget_shards(folder: Path) -> None:
    """Remove the shards of a run that has kept no epoch: nobody could go on with them."""
    if not (folder / CHECKPOINT).exists():
        shutil.rmtree(folder / SHARDS, ignore_errors=True)


def _told(phase: str, played: Played) -> Metrics:
    if not played.returns:
        return {}
    count = len(played.returns)
    return {
        f"{phase}/return": sum(played.returns) / count,
        f"{phase}/length": sum(played.lengths) / count,
        f"{phase}/episodes": count,
    }

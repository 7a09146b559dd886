"""A run of IRIS: epochs of playing, learning and testing in a folder, from which it goes on after any end.

The folder holds `checkpoint.pt` with everything but the replay, a replay file for each of the last two
checkpoints, and what `reverie.iris.watching` writes. A checkpoint is complete or not there: it takes its place
in one move, after the replay that it names. So a killed run loses the epoch it was in and nothing else, and an
interrupted run equals an uninterrupted one, bit for bit on a processor with as many threads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

import reverie
from reverie import (
    BadSetting,
    EpisodeUniform,
    Field,
    FileError,
    Mixture,
    Recent,
    ReplayBuffer,
    Sampler,
    StepSpec,
    Uniform,
)
from reverie.iris.agent import Agent
from reverie.iris.collect import Collector, Game, Played, evaluate
from reverie.iris.config import Optimisation
from reverie.iris.graphs import Imagine
from reverie.iris.settings import Config, config_from_json, config_to_json
from reverie.iris.tokenizer import Perceptual
from reverie.iris.train import (
    TOKENS,
    Progress,
    mirror_tokens,
    new_optimiser,
    to_frames,
    train_actor_critic,
    train_tokenizer,
    train_world_model,
)
from reverie.printable import printable
from reverie.torch import DeviceMirror

Games = Callable[[bool], Game]
"""Makes a game: for training if True (a lost life may end an episode), for testing if False."""
Metrics = dict[str, float]
Watch = Callable[[str, int, int], None]
"""Told the phase, how much of it is done, and how much it is in all."""

CHECKPOINT = "checkpoint.pt"
PERPLEXITY_FRAMES = 512
# What a checkpoint holds.
KINDS = {"seed": int, "game": str, "config": str, "generation": int, "replay": str, "epoch": int, "steps": int,
         "agent": dict, "optimisers": dict, "collector": str,
         "frames": torch.Tensor, "chance": torch.Tensor}  # fmt: skip


def new_replay(config: Config, seed: int) -> ReplayBuffer:
    """Return the empty replay of a run."""
    spec = StepSpec(Field(config.tokenizer.frame, "uint8"), Field((), "int64"))
    collection = config.collection
    return ReplayBuffer(spec, collection.capacity, streams=collection.environments, seed=seed)


class Run:
    """A run in a folder; `start` begins one, `resume` goes on with one.

    Args:
        folder: of the run.
        config: its numbers.
        games: makes the games.
        seed: fixes every random choice; PyTorch's generator is seeded with it.
        device: where the models live.
        game: its name, for whoever finds the folder.
        perceptual: the distance that "perceptual" reconstruction adds.
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
        self.done = 0  # epochs
        self.steps = 0  # of real games
        self._perceptual = perceptual
        self._playing = [games(True) for _ in range(config.collection.environments)]
        self._testing: list[Game] = []
        torch.manual_seed(seed)
        where = torch.device(device)
        self.agent = Agent(config, int(self._playing[0].action_space.n)).to(where)
        parts: tuple[tuple[str, nn.Module, Optimisation], ...] = (
            ("tokenizer", self.agent.tokenizer, config.tokenizer_training),
            ("world_model", self.agent.world_model, config.world_model_training),
            ("actor_critic", self.agent.actor_critic, config.actor_critic_training),
        )
        self.trainings = {name: training for name, _, training in parts}
        self._optimisers = {name: new_optimiser(part, training) for name, part, training in parts}
        self._imagine = Imagine(self.agent, captured=config.cuda_graphs and where.type == "cuda")
        self._generation = 0  # how often the run was resumed
        self.buffer: ReplayBuffer
        self.collector: Collector

    @classmethod
    def start(cls, folder: Path, config: Config, games: Games, **settings: Any) -> Run:
        """Return a new run in a folder that is made, or holds none yet; settings as in the constructor.

        Raises:
            BadSetting: there is a run already.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            raise BadSetting(
                f"run: wanted a folder without a run, got {folder}; resume it, or choose another"
            )
        for left in folder.glob("replay-*"):  # of a run that was killed in its first epoch
            left.unlink()
        self = cls(folder, config, games, **settings)
        self._use(new_replay(config, self.seed))
        return self

    @classmethod
    def resume(cls, folder: Path, games: Games, **settings: Any) -> Run:
        """Return the run of a folder as it was after its last whole epoch.

        Args:
            folder: of the run, which knows its configuration, seed and game.
            games: makes the games.
            **settings: `device` and `perceptual`, as in the constructor.

        Raises:
            BadSetting: there is no run.
            FileError: its checkpoint is none, or damaged.
        """
        state = read_checkpoint(folder)
        config = config_from_json(state["config"])
        self = cls(folder, config, games, seed=state["seed"], game=state["game"], **settings)
        self._generation = state["generation"] + 1
        for left in folder.glob("replay-*"):
            if left.name != state["replay"]:
                left.unlink()
        # The named file stays as it is until the next checkpoint; what is played goes to a copy.
        live = folder / f"replay-live-{self._generation}"
        shutil.copyfile(folder / state["replay"], live)
        self._use(reverie.open(live, residency="ram"))
        self.done, self.steps = state["epoch"], state["steps"]
        try:
            with _reading(folder / CHECKPOINT):
                self._load(state)
        except BaseException:
            self.close()
            raise
        return self

    def _load(self, state: dict[str, Any]) -> None:
        """Take back what a checkpoint holds beside the replay and how far the run had come."""
        self.agent.load_state_dict(state["agent"])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.collector.load(json.loads(state["collector"]), state["frames"].numpy())
        torch.set_rng_state(state["chance"])
        if self.agent.device.type == "cuda":
            torch.cuda.set_rng_state(state["chance_there"], self.agent.device)

    def epoch(self, watch: Watch | None = None) -> Metrics:
        """Play, learn, test and keep one epoch; return what there is to tell of it.

        Args:
            watch: told of every step of it.
        """
        watch = watch or (lambda phase, done, total: None)
        began = perf_counter()
        number, metrics = self.done + 1, Metrics(epoch=self.done + 1)
        metrics |= self._play(number, watch)
        for name, training in self.trainings.items():
            if number > training.start_after:
                metrics |= self._learn(name, training, number, watch)
        if number % self.config.evaluation.every == 0 or number == self.config.epochs:
            metrics |= _told("test", self.test(watch))
        metrics["duration_s"] = perf_counter() - began
        self.done = number
        self.save()
        return metrics

    def test(self, watch: Watch | None = None, *, episodes: int | None = None) -> Played:
        """Return the episodes of a test of the policy as it is; `episodes` replaces the configured number."""
        settings = self.config.evaluation
        if not self._testing:
            self._testing = [self.games(False) for _ in range(settings.environments)]
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
        """Make the run survive whatever comes: first the replay, then the checkpoint that names it."""
        # Two files take turns, so that the one the last checkpoint names is never touched.
        replay = f"replay-{self._generation}-{self.done % 2}"
        self.buffer.save_as(self.folder / replay)
        collector, frames = self.collector.save()
        there = self.agent.device
        state = {
            "seed": self.seed,
            "game": self.game,
            "config": config_to_json(self.config),
            "generation": self._generation,
            "replay": replay,
            "epoch": self.done,
            "steps": self.steps,
            "agent": self.agent.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()},
            "collector": json.dumps(collector),
            "frames": torch.from_numpy(frames),
            "chance": torch.get_rng_state(),
            "chance_there": torch.cuda.get_rng_state(there) if there.type == "cuda" else None,
        }
        draft = self.folder / f"{CHECKPOINT}.draft"
        with draft.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / CHECKPOINT)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)  # the move itself
        finally:
            os.close(handle)

    def close(self) -> None:
        """Let go of the games and of the replay."""
        for game in (*self._playing, *self._testing):
            game.close()
        self.buffer.close()
        for left in self.folder.glob("replay-live-*"):
            left.unlink()

    def _use(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        self.collector = Collector(self.agent, self._playing, buffer, seed=self.seed)

    @cached_property
    def _mirror(self) -> DeviceMirror:
        """The frames and their tokens on the device; only a run that learns has need of them."""
        return mirror_tokens(self.agent.tokenizer, self.buffer)

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
        return {
            "steps": self.steps,
            "epsilon": epsilon,
            **_told("play", played),
            "play/steps_per_s": steps / (perf_counter() - began),
        }

    def _learn(self, name: str, training: Optimisation, epoch: int, watch: Watch) -> Metrics:
        first = epoch == training.start_after + 1
        epochs = self.config.epochs
        rates = training.rates((epoch - 1) / epochs, epoch / epochs, first=first)
        sums: dict[str, torch.Tensor] = {}  # they stay on the device until the phase is over
        began = perf_counter()
        for progress in self._updates(name, training, rates):
            for term, loss in progress.losses._asdict().items():
                sums[term] = sums[term] + loss if term in sums else loss
            watch(name, progress.step + 1, len(rates))
        metrics = {f"{name}/{term}": float(total) / len(rates) for term, total in sums.items()}
        metrics[f"{name}/updates_per_s"] = len(rates) / (perf_counter() - began)
        if name == "tokenizer":
            metrics["tokenizer/perplexity"] = self._perplexity()
        return metrics

    def _updates(self, name: str, training: Optimisation, rates: list[float]) -> Iterator[Progress]:
        agent, buffer, optimiser, sampler = self.agent, self.buffer, self._optimisers[name], self._sampler()
        if name == "tokenizer":
            loss = self.config.tokenizer_loss
            return train_tokenizer(agent.tokenizer, buffer, training, loss, optimiser=optimiser, sampler=sampler,
                                   rates=rates, perceptual=self._perceptual)  # fmt: skip
        if name == "world_model":
            # In every epoch anew, though the tokenizer may rest: a resumed run has made none of them yet.
            self._mirror.touch(TOKENS)
            return train_world_model(agent.world_model, agent.tokenizer, buffer, training, optimiser=optimiser,
                                     sampler=sampler, rates=rates, mirror=self._mirror)  # fmt: skip
        return train_actor_critic(agent, buffer, training, optimiser=optimiser, sampler=sampler, rates=rates,
                                  imagine=self._imagine)  # fmt: skip

    def _sampler(self) -> Sampler:
        sampling = self.config.sampling
        whole = EpisodeUniform() if sampling.over == "episodes" else Uniform()
        if not sampling.recent_share:
            return whole
        recent = Recent(newest=max(1, len(self.buffer) // 4))
        return Mixture([(whole, 1 - sampling.recent_share), (recent, sampling.recent_share)])

    @torch.no_grad()
    def _perplexity(self) -> float:
        """Return how many codes are in use, counted by the entropy of their frequencies in the newest frames."""
        newest = Recent(newest=min(len(self.buffer), PERPLEXITY_FRAMES * self.buffer.streams))
        batch = self.buffer.sample(PERPLEXITY_FRAMES, 1, boundary="pad_right", sampler=newest)
        tokens = self.agent.tokenizer.encode(to_frames(batch.obs[:, 0], self.agent.device)).tokens
        share = tokens.flatten().bincount(minlength=self.config.tokenizer.codebook_size) / tokens.numel()
        return float(torch.special.entr(share).sum().exp())


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what the checkpoint of a run holds. No code in it is run.

    Raises:
        BadSetting: there is none.
        FileError: it is something else, cut short, or damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise BadSetting(f"run: wanted a folder with {CHECKPOINT}, got {folder}; start a run there first")
    with _reading(path):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if type(state) is not dict:
            raise ValueError(f"it holds a {type(state).__name__}")
        for name, kind in KINDS.items():
            if not isinstance(state[name], kind):
                raise ValueError(f"its {name} is a {type(state[name]).__name__}")
        if not re.fullmatch(r"replay-\d+-[01]", state["replay"]):
            raise ValueError("the name of its replay is none")
        config_from_json(state["config"])
    return state


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong inside comes of what the checkpoint holds: it becomes one FileError."""
    try:
        yield
    except Exception as error:  # PyTorch has a dozen kinds for a file that it cannot read
        why = (str(error) or type(error).__name__).partition("\n")[0]
        raise FileError(
            f"{path}: wanted the checkpoint of a run, got a damaged one or something else ({printable(why, 200)}); "
            f"restore the folder from a copy, or start a run in another"
        ) from error


def _told(phase: str, played: Played) -> Metrics:
    if not played.returns:
        return {}
    count = len(played.returns)
    return {
        f"{phase}/return": sum(played.returns) / count,
        f"{phase}/length": sum(played.lengths) / count,
        f"{phase}/episodes": count,
    }

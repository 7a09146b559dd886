"""The part of a run that learns: the optimisers of the three models, and one epoch of each training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch

from reverie.iris.config import Optimisation
from reverie.iris.learning.drawing import Drawing
from reverie.iris.learning.tokens import TOKENS, Replay, Tokens, tokens_of
from reverie.iris.learning.train import (
    Progress,
    new_optimiser,
    perplexity,
    train_actor_critic,
    train_tokenizer,
    train_world_model,
)
from reverie.iris.models import Agent, Imagine, Perceptual

Metrics = dict[str, float]
Watch = Callable[[str, int, int], None]
"""Takes the phase, how much of it is done, and how much it is in all."""


class Learner:
    """Trains the tokenizer, the world model and the actor-critic of an agent, one epoch at a time.

    Args:
        agent: trained in place; its configuration says how.
        perceptual: the distance that "perceptual" reconstruction adds.

    Attributes:
        mirror: the frames and tokens of the replay on the device; None until the world model first learns.
        drawing: makes the samplers.
    """

    def __init__(self, agent: Agent, perceptual: Perceptual | None = None) -> None:
        config = agent.config
        self.agent = agent
        self.mirror: Tokens | None = None
        self.drawing = Drawing(config.sampling)
        self._perceptual = perceptual
        self._trainings = {  # phase -> how, in the order in which an epoch has them
            "tokenizer": config.tokenizer_training,
            "world_model": config.world_model_training,
            "actor_critic": config.actor_critic_training,
        }
        self._optimisers = {
            phase: new_optimiser(getattr(agent, phase), training)
            for phase, training in self._trainings.items()
        }
        self._imagine = Imagine(agent, captured=config.cuda_graphs and agent.device.type == "cuda")

    def save(self) -> dict[str, Any]:
        """Return the states of the optimisers by phase."""
        return {phase: optimiser.state_dict() for phase, optimiser in self._optimisers.items()}

    def load(self, states: dict[str, Any]) -> None:
        """Take back what `save` returned."""
        for phase, optimiser in self._optimisers.items():
            optimiser.load_state_dict(states[phase])

    def epoch(self, buffer: Replay, number: int, watch: Watch) -> Metrics:
        """Train whatever has begun by epoch `number`, from 1, and return its metrics."""
        metrics: Metrics = {}
        for phase, training in self._trainings.items():
            if number > training.start_after:
                metrics |= self._phase(phase, training, buffer, number, watch)
        return metrics

    def _phase(
        self, phase: str, training: Optimisation, buffer: Replay, number: int, watch: Watch
    ) -> Metrics:
        epochs = self.agent.config.epochs
        first = number == training.start_after + 1
        rates = training.rates((number - 1) / epochs, number / epochs, first=first)
        sums: dict[str, torch.Tensor] = {}  # they stay on the device until the phase is over
        began = perf_counter()
        for progress in self._updates(phase, training, buffer, rates):
            for term, loss in progress.losses._asdict().items():
                sums[term] = sums[term] + loss if term in sums else loss
            watch(phase, progress.step + 1, len(rates))
        metrics = {f"{phase}/{term}": float(total) / len(rates) for term, total in sums.items()}
        metrics[f"{phase}/duration_s"] = perf_counter() - began
        metrics[f"{phase}/updates_per_s"] = len(rates) / metrics[f"{phase}/duration_s"]
        if phase == "tokenizer":
            metrics["tokenizer/perplexity"] = perplexity(self.agent.tokenizer, buffer)
        return metrics

    def _updates(
        self, phase: str, training: Optimisation, buffer: Replay, rates: list[float]
    ) -> Iterator[Progress]:
        agent, optimiser = self.agent, self._optimisers[phase]
        sampler = self.drawing.sampler(buffer, phase)
        ranked = agent.config.sampling.way_in(phase) == "priority"
        if phase == "tokenizer":
            return train_tokenizer(
                agent.tokenizer,
                buffer,
                training,
                agent.config.tokenizer_loss,
                optimiser=optimiser,
                sampler=sampler,
                rates=rates,
                perceptual=self._perceptual,
            )
        if phase == "world_model":
            return train_world_model(
                agent.world_model,
                agent.tokenizer,
                buffer,
                training,
                optimiser=optimiser,
                sampler=sampler,
                rates=rates,
                mirror=self._fresh_mirror(buffer),
                ranked=ranked,
            )
        return train_actor_critic(
            agent,
            buffer,
            training,
            optimiser=optimiser,
            sampler=sampler,
            rates=rates,
            imagine=self._imagine,
            ranked=ranked,
        )

    def _fresh_mirror(self, buffer: Replay) -> Tokens:
        self.mirror = self.mirror or tokens_of(self.agent.tokenizer, buffer)
        # In every epoch anew, though the tokenizer may rest: a resumed run has made no tokens yet.
        self.mirror.touch(TOKENS)
        return self.mirror

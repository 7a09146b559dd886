"""Training of the tokenizer, the world model and the actor-critic on batches drawn from a replay buffer.

All are generators: each update yields a `Progress`, so a caller shows, logs or stops as it likes. Frames
travel as uint8 and become floats on the model's device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reverie import Recent, Sampler, SequenceBatch
from reverie.iris.config import Optimisation, TokenizerLoss
from reverie.iris.learning.tokens import TOKENS, Replay, Tokens, tokens_of
from reverie.iris.models import (
    ActorCriticLosses,
    Agent,
    Imagine,
    Perceptual,
    Tokenizer,
    TokenizerLosses,
    WorldModel,
    WorldModelLosses,
    actor_critic_losses,
    lessons_of,
    tokenizer_losses,
)

PERPLEXITY_FRAMES = 512
MEAN_FRAME_STEPS = 512  # frames that the mean frame is estimated from


@dataclass(frozen=True, slots=True)
class Progress:
    """One update.

    Attributes:
        step: its number, from 0.
        losses: its terms, scalars on the model's device, without gradient.
        sequences: frames (tokenizer), windows (world model) or imagined games (actor-critic) in its batch.
        waiting_s: seconds spent until the buffer had handed the batch over.
        total_s: seconds of the whole update, waiting included.
    """

    step: int
    losses: TokenizerLosses | WorldModelLosses | ActorCriticLosses
    sequences: int
    waiting_s: float
    total_s: float


class History:
    """What a training run reported, gathered: feed it every `Progress`.

    Attributes:
        losses: term -> its value after each update.
        sequences: frames or windows used so far.
        waiting_s, total_s: seconds spent waiting for data, and altogether.
    """

    def __init__(self) -> None:
        self.losses: dict[str, list[float]] = {}
        self.sequences = 0
        self.waiting_s = 0.0
        self.total_s = 0.0

    def add(self, progress: Progress) -> None:
        """Take one more update in."""
        for name, term in progress.losses._asdict().items():
            self.losses.setdefault(name, []).append(float(term))
        self.sequences += progress.sequences
        self.waiting_s += progress.waiting_s
        self.total_s += progress.total_s

    @property
    def sequences_per_s(self) -> float:
        """Frames or windows used per second."""
        return self.sequences / self.total_s

    @property
    def waiting_share(self) -> float:
        """The part of the time that went into waiting for data, in 0..1."""
        return self.waiting_s / self.total_s

    def recent(self, name: str, count: int = 20) -> float:
        """Return the mean of a term over the last `count` updates."""
        values = self.losses[name][-count:]
        return sum(values) / len(values)


def new_optimiser(model: nn.Module, settings: Optimisation) -> torch.optim.AdamW:
    """Return AdamW for a model: the weights of linear layers decay, nothing else does.

    With a weight decay of 0 it is Adam.
    """
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if id(p) in decayed], "weight_decay": settings.weight_decay},
        {"params": [p for p in learned if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        eps=settings.epsilon,
        fused=True,
    )


def train_tokenizer(
    tokenizer: Tokenizer,
    buffer: Replay,
    settings: Optimisation,
    loss: TokenizerLoss,
    *,
    optimiser: torch.optim.Optimizer | None = None,
    sampler: Sampler | None = None,
    rates: Iterable[float] | None = None,
    perceptual: Perceptual | None = None,
) -> Iterator[Progress]:
    """Yield after each update of the tokenizer.

    Args:
        tokenizer: trained in place, and left in evaluation mode when the steps are done.
        buffer: holds `obs` as one uint8 array a step.
        settings, loss: how, and for what.
        optimiser: one that goes on from an earlier call; None begins with a new one.
        sampler: chooses the steps; None takes all with equal probability.
        rates: the learning rate of each update; None takes those of a whole run of one epoch.
        perceptual: the distance that "perceptual" reconstruction adds.

    Raises:
        NotEnoughData: the buffer is empty.
        BadSetting: frames of another size, or no perceptual distance where the settings want one.
    """
    optimiser = optimiser or new_optimiser(tokenizer, settings)
    device = tokenizer.embedding.weight.device
    # A codebook that no update has moved yet is placed as a whole. One that goes on from an earlier call is not:
    # that would give every token another meaning.
    fresh = not optimiser.state
    if tokenizer.background is not None and fresh:
        some = buffer.sample(MEAN_FRAME_STEPS, 1, boundary="pad_right", sampler=sampler)
        tokenizer.background.copy_(to_frames(np.median(some.obs[:, 0], axis=0).astype(np.uint8), device))
    mean_frame = None
    if loss.pixel_weight:
        some = buffer.sample(MEAN_FRAME_STEPS, 1, boundary="pad_right", sampler=sampler)
        mean_frame = to_frames(some.obs[:, 0], device).mean(0)
    idle = torch.ones(tokenizer.config.codebook_size, dtype=torch.bool, device=device)  # unused since revival
    tokenizer.train()
    batch = None
    for step, rate in enumerate(settings.rates() if rates is None else rates):
        began = perf_counter()
        batch = buffer.sample(settings.batch_size, 1, boundary="pad_right", sampler=sampler, out=batch)
        arrived = perf_counter()
        frames = to_frames(batch.obs[:, 0], device)
        if loss.revive_every and step % loss.revive_every == 0 and (step or fresh):
            with torch.no_grad():
                tokenizer.revive(idle, tokenizer.encode(frames).z, beyond=loss.revive_beyond)
            idle.fill_(True)
        losses, encoded = tokenizer_losses(tokenizer, frames, loss, mean_frame, perceptual)
        used = encoded.tokens.flatten().bincount(minlength=len(idle)) > 0
        idle &= ~used
        _update(tokenizer, optimiser, settings, rate, losses.total)
        if tokenizer.usage is not None:
            tokenizer.follow(encoded)
        detached = TokenizerLosses(*(term.detach() for term in losses))
        waiting, total = arrived - began, perf_counter() - began
        yield Progress(step, detached, len(batch), waiting, total)
    tokenizer.eval()


def train_world_model(
    world_model: WorldModel,
    tokenizer: Tokenizer,
    buffer: Replay,
    settings: Optimisation,
    *,
    optimiser: torch.optim.Optimizer | None = None,
    sampler: Sampler | None = None,
    rates: Iterable[float] | None = None,
    boundary: str = "pad_right",
    mirror: Tokens | None = None,
    ranked: bool = False,
) -> Iterator[Progress]:
    """Yield after each update of the world model.

    Windows are as long as the model's context. The tokenizer is not trained; a frame is encoded when a window
    first needs it.

    Args:
        world_model: trained in place, and left in evaluation mode when the steps are done.
        tokenizer: turns frames into tokens, in evaluation mode throughout.
        buffer: holds `obs` as one uint8 array and `action` as one integer a step.
        settings: how.
        optimiser: one that goes on from an earlier call; None begins with a new one.
        sampler: chooses the windows; None takes all with equal probability.
        rates: the learning rate of each update; None takes those of a whole run of one epoch.
        boundary: "pad_right" lets a window run out of its episode, as published; "inside" does not.
        mirror: what `tokens_of` returned for this buffer, with tokens of the tokenizer as it is now; None
            makes one.
        ranked: whether a window's loss becomes its priority; wants a sampler that keeps priorities.

    Raises:
        NotEnoughData: no window there, or for "inside", no episode as long as the model's context.
    """
    optimiser = optimiser or new_optimiser(world_model, settings)
    tokenizer.eval()
    if world_model.config.looks:
        world_model.see(tokenizer.patches())
    world_model.train()
    mirror = mirror or tokens_of(tokenizer, buffer)
    length = world_model.config.blocks
    for step, rate in enumerate(settings.rates() if rates is None else rates):
        began = perf_counter()
        batch = mirror.sample(settings.batch_size, length, boundary=boundary, sampler=sampler, obs=TOKENS)
        arrived = perf_counter()
        assert isinstance(batch, SequenceBatch)
        # A window carries the observation after its last step as well; the model predicts up to that step.
        tokens = batch.obs[:, :-1]  # (B, L, K)
        end = batch.terminated | batch.truncated
        if ranked:
            losses, surprise = world_model.losses_by_window(
                tokens, batch.action, batch.reward, end, batch.mask
            )
            buffer.update_priorities(batch.host, surprise.cpu().numpy())
        else:
            losses = world_model.losses(tokens, batch.action, batch.reward, end, batch.mask)
        _update(world_model, optimiser, settings, rate, losses.total)
        detached = WorldModelLosses(*(term.detach() for term in losses))
        waiting, total = arrived - began, perf_counter() - began
        yield Progress(step, detached, len(batch), waiting, total)
    world_model.eval()


def train_actor_critic(
    agent: Agent,
    buffer: Replay,
    settings: Optimisation,
    *,
    optimiser: torch.optim.Optimizer | None = None,
    sampler: Sampler | None = None,
    rates: Iterable[float] | None = None,
    imagine: Imagine | None = None,
    ranked: bool = False,
) -> Iterator[Progress]:
    """Yield after each update of the actor-critic, which learns from imagined games alone.

    Games start from real frames with those before them as context, padded on the left. They are imagined
    without gradient; the actor-critic then judges the same frames again with it, once in each of its `passes`.

    Args:
        agent: its actor-critic is trained in place; nothing else of it is.
        buffer: holds `obs` as one uint8 array a step.
        settings: how; `agent.config.actor_critic_loss` says for what.
        optimiser: one that goes on from an earlier call; None begins with a new one.
        sampler: chooses the frames that games start from; None takes all with equal probability.
        rates: the learning rate of each update; None takes those of a whole run of one epoch.
        imagine: plays the games; None makes one that does not capture them.
        ranked: whether the critic's error at a frame becomes its priority; wants a sampler that keeps priorities.

    Raises:
        NotEnoughData: the buffer is empty.
    """
    optimiser = optimiser or new_optimiser(agent.actor_critic, settings)
    imagine = imagine or Imagine(agent)
    loss = agent.config.actor_critic_loss
    agent.eval()  # dropout would garble what is imagined
    batch = None
    for step, rate in enumerate(settings.rates() if rates is None else rates):
        began = perf_counter()
        batch = buffer.sample(
            settings.batch_size, 1, boundary="pad_left", burn_in=loss.burn_in, sampler=sampler, out=batch
        )
        arrived = perf_counter()
        obs, mask = (
            torch.from_numpy(np.ascontiguousarray(array)).to(agent.device)
            for array in (batch.obs[:, :-1], batch.mask)
        )
        played = imagine(obs, mask)
        judged = agent.actor_critic.unroll(played.frames, played.memory)
        lessons = lessons_of(judged, played.action, played.reward, played.end, loss)
        if ranked:
            buffer.update_priorities(batch, lessons.error[:, 0].abs().cpu().numpy())
        losses = actor_critic_losses(judged, lessons, loss)
        _update(agent.actor_critic, optimiser, settings, rate, losses.total)
        for _ in range(loss.passes - 1):
            judged = agent.actor_critic.unroll(played.frames, played.memory)
            again = actor_critic_losses(judged, lessons, loss, again=True)
            _update(agent.actor_critic, optimiser, settings, rate, again.total)
        detached = ActorCriticLosses(*(term.detach() for term in losses))
        waiting, total = arrived - began, perf_counter() - began
        yield Progress(step, detached, len(batch), waiting, total)


@torch.no_grad()
def perplexity(tokenizer: Tokenizer, buffer: Replay) -> float:
    """Return how many codes are in use, counted by the entropy of their frequencies in the newest frames."""
    newest = Recent(newest=min(len(buffer), PERPLEXITY_FRAMES * buffer.streams))
    batch = buffer.sample(PERPLEXITY_FRAMES, 1, boundary="pad_right", sampler=newest)
    tokens = tokenizer.encode(to_frames(batch.obs[:, 0], tokenizer.embedding.weight.device)).tokens
    share = tokens.flatten().bincount(minlength=tokenizer.config.codebook_size) / tokens.numel()
    return float(torch.special.entr(share).sum().exp())


def to_frames(obs: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return frames on the device as float32 in 0..1; they cross over as bytes, a quarter of the size."""
    return torch.from_numpy(np.ascontiguousarray(obs)).to(device).float() / 255


def _update(
    model: nn.Module, optimiser: torch.optim.Optimizer, settings: Optimisation, rate: float, loss: Tensor
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch gives it no types
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimiser.step()

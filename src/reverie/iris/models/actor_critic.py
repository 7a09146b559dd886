"""The actor-critic of IRIS: a policy and a value, from frames as the tokenizer shows them.

After Micheli, Alonso, Fleuret, "Transformers are Sample-Efficient World Models", ICLR 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from reverie import BadSetting
from reverie.iris.config import ActorCriticConfig, ActorCriticLoss
from reverie.iris.models.device import in_precision

TINY_ADVANTAGE = 1e-3  # keeps advantages that are all alike from being blown up to one


class Memory(NamedTuple):
    """The state of the LSTM for B games, both (B, width) float32; zeros at the start of an episode."""

    hidden: Tensor
    cell: Tensor


class Judged(NamedTuple):
    """What the actor-critic says of frames. Leading axes are those of the frames.

    Attributes:
        logits: (…, A) float32, of the actions.
        value: (…) float32, the discounted rewards to come.
        memory: after the last frame.
    """

    logits: Tensor
    value: Tensor
    memory: Memory


class ActorCriticLosses(NamedTuple):
    """The terms of one batch, scalars; `total` is to be differentiated.

    Attributes:
        total: policy + value's weight · value - entropy's weight · entropy.
        policy: minus the mean of log-probability times advantage.
        value: mean squared distance of the values from the returns.
        entropy: of the policy in nats.
        mean_value: of the critic's answers. mean_reward: of the imagined rewards, a step.
    """

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    mean_value: Tensor
    mean_reward: Tensor


class Lessons(NamedTuple):
    """What B imagined games of T steps teach, all (B, T) and without gradient.

    Attributes:
        action: int64. reward: float32, what the model gave.
        returns: float32, the λ-returns. advantage: float32, how much better they were than expected, perhaps scaled.
        counts: float32, 1 for steps that are learned from, else 0.
        chosen: float32, the log-probability that the action had when the game was played.
        error: float32, the return less the critic's value.
    """

    action: Tensor
    reward: Tensor
    returns: Tensor
    advantage: Tensor
    counts: Tensor
    chosen: Tensor
    error: Tensor


class ActorCritic(nn.Module):
    """A small convolutional network, an LSTM, and two linear heads. All of it computes in float32.

    Args:
        config: the sizes.
        frame: (channels, height, width) of a frame.
        actions: A, how many actions there are.
    """

    def __init__(self, config: ActorCriticConfig, *, frame: tuple[int, int, int], actions: int) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        inward, side = frame[0], frame[1]
        for outward, stride in zip(config.channels, config.strides, strict=True):
            if config.pooled:
                layers += [nn.Conv2d(inward, outward, 3, padding=1), nn.MaxPool2d(stride), nn.ReLU()]
                side //= stride
            else:
                layers += [nn.Conv2d(inward, outward, 3, stride, padding=1), nn.ReLU()]
                side = -(-side // stride)
            inward = outward
        if side < 1:
            raise BadSetting(
                f"strides: wanted something left of frames of side {frame[1]}, got {config.strides}; use fewer"
            )
        self.features = nn.Sequential(*layers, nn.Flatten())
        flat = inward * side * side
        self.lstm = nn.LSTMCell(flat, config.width) if config.recurrent else None
        self.hidden = None if config.recurrent else nn.Sequential(nn.Linear(flat, config.width), nn.ReLU())
        self.actor = nn.Linear(config.width, actions)
        self.critic = nn.Linear(config.width, 1)
        if config.careful_heads:
            nn.init.normal_(self.actor.weight, std=0.01)
            for zero in (self.actor.bias, self.critic.weight, self.critic.bias):
                nn.init.zeros_(zero)

    def initial_memory(self, batch: int) -> Memory:
        """Return the memory of games that have just begun."""
        zeros = self.actor.weight.new_zeros(batch, self.config.width)
        return Memory(zeros, zeros)

    def forward(self, frames: Tensor, memory: Memory) -> Judged:
        """Return what the network says of frames (B, C, H, W) in 0..1, seen after what `memory` holds."""
        judged = self.unroll(frames.unsqueeze(1), memory)
        return Judged(judged.logits[:, 0], judged.value[:, 0], judged.memory)

    def unroll(self, frames: Tensor, memory: Memory, mask: Tensor | None = None) -> Judged:
        """Return what the network says of frames (B, T, C, H, W) in 0..1 that follow each other.

        Args:
            frames: as the tokenizer shows them.
            memory: of what came before.
            mask: (B, T) bool; where it is False there is no frame, and the memory stays as it is.
        """
        batch, length = frames.shape[:2]
        # Recurrence and values lose too much in half precision.
        with in_precision("float32", frames.device):
            features = self.features(2 * frames.float().flatten(0, 1) - 1)
            if self.lstm is None:
                assert self.hidden is not None
                outputs = self.hidden(features).view(batch, length, -1)
            else:
                outputs, memory = self._remember(features.view(batch, length, -1), memory, mask)
            logits, value = self.actor(outputs), self.critic(outputs).squeeze(-1)
        return Judged(logits, value, memory)

    @torch.no_grad()
    def recall(self, frames: Tensor, mask: Tensor) -> Memory:
        """Return the memory that frames (B, T, C, H, W) in 0..1 leave behind, from zeros and without gradient.

        `mask` (B, T) bool is False where there is no frame.
        """
        memory = self.initial_memory(len(frames))
        return (
            self.unroll(frames, memory, mask).memory if frames.shape[1] and self.config.recurrent else memory
        )

    def _remember(self, features: Tensor, memory: Memory, mask: Tensor | None) -> tuple[Tensor, Memory]:
        assert self.lstm is not None
        outputs = []
        for step in range(features.shape[1]):
            after = Memory(*self.lstm(features[:, step], memory))
            if mask is not None:
                real = mask[:, step, None]
                after = Memory(*(torch.where(real, new, old) for new, old in zip(after, memory, strict=True)))
            memory = after
            outputs.append(memory.hidden)
        return torch.stack(outputs, 1), memory


@torch.no_grad()
def lambda_returns(reward: Tensor, value: Tensor, end: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Return λ-returns (B, T) float32.

    Args:
        reward: (B, T), what came after each step.
        value: (B, T+1), of what each step saw and of what the last one led to, which closes the sum.
        end: (B, T) bool; nothing after such a step counts.
        gamma: the discount. lam: λ.
    """
    keeps = gamma * (~end).float()
    following = value[:, -1].float()
    returns = []
    for step in range(reward.shape[1] - 1, -1, -1):
        mixed = (1 - lam) * value[:, step + 1].float() + lam * following
        following = reward[:, step].float() + keeps[:, step] * mixed
        returns.append(following)
    return torch.stack(returns[::-1], 1)


@torch.no_grad()
def lessons_of(
    judged: Judged, action: Tensor, reward: Tensor, end: Tensor, settings: ActorCriticLoss
) -> Lessons:
    """Return what B imagined games of T steps teach.

    Args:
        judged: of all T+1 frames: logits (B, T+1, A), value (B, T+1). The last frame only closes the returns.
        action: (B, T) int64. reward: (B, T) float. end: (B, T) bool.
        settings: how returns are made, and which steps count.
    """
    logits, value = judged.logits[:, :-1].detach(), judged.value.detach()
    returns = lambda_returns(reward, value, end, gamma=settings.gamma, lam=settings.lam)
    counts = torch.ones_like(returns)
    if settings.mask_after_end:  # the step that ends the game is the last to count
        counts[:, 1:] = (end[:, :-1].cumsum(1) == 0).float()
    advantage = error = returns - value[:, :-1]
    if settings.scaled_advantages:
        mean_square = (advantage.square() * counts).sum() / counts.sum()
        advantage = advantage / (mean_square.sqrt() + TINY_ADVANTAGE)
    return Lessons(action, reward, returns, advantage, counts, _chosen(logits.log_softmax(-1), action), error)


def actor_critic_losses(
    judged: Judged, lessons: Lessons, settings: ActorCriticLoss, *, again: bool = False
) -> ActorCriticLosses:
    """Return the losses of B imagined games of T steps.

    Args:
        judged: of all T+1 frames, with gradient: logits (B, T+1, A), value (B, T+1).
        lessons: of these games.
        settings: how the terms are weighed.
        again: whether the actor-critic has learned from these games before; the policy's term is then the clipped
            ratio of probabilities times the advantage.
    """
    logits, value = judged.logits[:, :-1], judged.value[:, :-1]
    counted = lessons.counts.sum()

    def mean(terms: Tensor) -> Tensor:
        return (terms * lessons.counts).sum() / counted

    log_probability = logits.log_softmax(-1)
    chosen = _chosen(log_probability, lessons.action)
    if again:
        ratio = (chosen - lessons.chosen).exp()
        bounded = ratio.clamp(1 - settings.clip_ratio, 1 + settings.clip_ratio)
        policy = -mean(torch.minimum(ratio * lessons.advantage, bounded * lessons.advantage))
    else:
        policy = -mean(chosen * lessons.advantage)
    entropy = -mean((log_probability.exp() * log_probability).sum(-1))
    value_loss = mean((value - lessons.returns).square())
    total = policy + settings.value * value_loss - settings.entropy * entropy
    return ActorCriticLosses(total, policy, value_loss, entropy, mean(value), mean(lessons.reward))


def _chosen(log_probability: Tensor, action: Tensor) -> Tensor:
    """Return the log-probabilities (B, T) of actions (B, T), of those of all (B, T, A)."""
    return log_probability.gather(2, action.unsqueeze(2)).squeeze(2)

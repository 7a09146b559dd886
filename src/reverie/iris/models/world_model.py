"""The world model of IRIS: a transformer that predicts a game's next tokens, rewards and ends.

After Micheli, Alonso, Fleuret, "Transformers are Sample-Efficient World Models", ICLR 2023. A step is a block
of K frame tokens and one action; blocks follow each other in one flat sequence.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import BadSetting
from reverie.iris.config import WorldModelConfig
from reverie.iris.models.device import in_precision
from reverie.iris.models.looks import LookEmbedding, LookHead
from reverie.iris.models.transformer import Cache, Transformer

IGNORED = -100  # the label that cross entropy leaves out
REWARD_CLASSES = 3  # the sign of the reward, plus one
END_CLASSES = 2


class Predictions(NamedTuple):
    """Logits, at the positions of the sequence where each question makes sense.

    Attributes:
        observation: (B, n, V) float32; the next frame token, at every position but a frame's last token,
            after which an action comes.
        reward: (B, m, 3) float32; the sign of the reward plus one, at every action.
        end: (B, m, 2) float32; whether the episode ended, at every action.
    """

    observation: Tensor
    reward: Tensor
    end: Tensor


class Labels(NamedTuple):
    """Right answers, IGNORED where nothing is asked.

    Attributes:
        observation: (B, n) int64, the tokens. reward, end: (B, L) int64, the classes.
    """

    observation: Tensor
    reward: Tensor
    end: Tensor


class WorldModelLosses(NamedTuple):
    """The cross entropies of one batch in nats, scalars; `total` is their sum."""

    total: Tensor
    observation: Tensor
    reward: Tensor
    end: Tensor


class WorldModel(nn.Module):
    """Reads blocks of frame tokens and actions, and predicts what comes next.

    Args:
        config: the sizes.
        tokens_per_frame: K; `codebook_size`: V; `actions`: A, how many actions there are.
        patch_pixels: numbers in the patch that a token shows; wanted with `looks` only.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        *,
        tokens_per_frame: int,
        codebook_size: int,
        actions: int,
        patch_pixels: int = 0,
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.block = tokens_per_frame + 1
        self.max_tokens = self.block * config.blocks
        self.frame_tokens = (
            LookEmbedding(codebook_size, patch_pixels, width)
            if config.looks
            else nn.Embedding(codebook_size, width)
        )
        self.action_tokens = nn.Embedding(actions, width)
        self.factored = config.positions == "factored"
        self.positions = nn.Embedding(config.blocks if self.factored else self.max_tokens, width)
        self.slots = nn.Embedding(self.block, width) if self.factored else None
        self.drop = nn.Dropout(config.dropout)
        self.transformer = Transformer(config.layers, config.heads, width, config.dropout)
        self.observation_head = (
            LookHead(codebook_size, patch_pixels, width) if config.looks else _head(width, codebook_size)
        )
        self.reward_head = _head(width, REWARD_CLASSES)
        self.end_head = _head(width, END_CLASSES)
        self.apply(partial(_initialise, std=config.init_std))
        # Where questions are asked, as constants: masks would make a processor wait for its accelerator.
        slot = torch.arange(self.max_tokens) % self.block
        self.register_buffer("_asked", (slot != self.block - 2).nonzero().flatten(), persistent=False)
        self.register_buffer("_acted", (slot == self.block - 1).nonzero().flatten(), persistent=False)
        self._asked: Tensor
        self._acted: Tensor

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Predictions:
        """Return predictions for a flat sequence of tokens (B, T) int64.

        The position of a token says what it is: every (K+1)th is an action, the others belong to frames.

        Args:
            tokens: the whole sequence from its first frame, or its continuation if there is a cache.
            cache: the tokens before; the new ones join it.

        Raises:
            BadSetting: more tokens than the longest sequence.
        """
        start = 0 if cache is None else cache.size
        stop = start + tokens.shape[1]
        x = self.read(tokens, cache)
        # Of `count` first positions, count // block are actions, and so many precede every asked one.
        block = self.block
        asked = self._asked[start - (start + 1) // block : stop - (stop + 1) // block] - start
        acted = self._acted[start // block : stop // block] - start
        at_action = x.index_select(1, acted)
        return Predictions(
            self.observation_head(x.index_select(1, asked)),
            self.reward_head(at_action),
            self.end_head(at_action),
        )

    def read(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return what the model makes of tokens (B, T), as `forward`, before it is asked: (B, T, width) float32.

        Raises:
            BadSetting: more tokens than the longest sequence.
        """
        start = 0 if cache is None else cache.size
        stop = start + tokens.shape[1]
        if stop > self.max_tokens:
            raise BadSetting(
                f"tokens: wanted at most {self.max_tokens} in a sequence, got {stop}; "
                f"pass fewer blocks, or clear the cache and begin again from the last frame"
            )
        x = self.drop(self._embed(tokens, start, stop))
        with in_precision(self.config.precision, tokens.device):
            read: Tensor = self.transformer(x, cache)
        return read.float()

    def see(self, patches: Tensor) -> None:
        """With `looks`, take note of what the codes show now, (V, numbers in a patch) in 0..1; else do nothing."""
        for part in (self.frame_tokens, self.observation_head):
            if isinstance(part, LookEmbedding | LookHead):
                part.see(patches)

    def new_cache(self, batch: int) -> Cache:
        """Return an empty cache for `batch` sequences of at most `max_tokens` tokens."""
        config, device = self.config, self.positions.weight.device
        head_dim = config.width // config.heads
        shape = (config.layers, batch, config.heads, self.max_tokens, head_dim)
        return Cache(shape, getattr(torch, config.precision), device)

    def losses(
        self, frame_tokens: Tensor, action: Tensor, reward: Tensor, end: Tensor, mask: Tensor
    ) -> WorldModelLosses:
        """Return the losses of B windows of L steps, each a mean over the targets that are not padding.

        Padding may stand on the right only: earlier positions never see it.

        Args:
            frame_tokens: (B, L, K) int64, the tokens of what each step saw.
            action: (B, L) int64. reward: (B, L) float. end: (B, L) bool. mask: (B, L) bool, False on padding.

        Raises:
            BadSetting: padding stands before a true step, or an episode ends before its window does.
        """
        return _averaged(*self._answered(frame_tokens, action, reward, end, mask))

    def losses_by_window(
        self, frame_tokens: Tensor, action: Tensor, reward: Tensor, end: Tensor, mask: Tensor
    ) -> tuple[WorldModelLosses, Tensor]:
        """Return the same, and the total of each window by itself: (B,) float32, without gradient."""
        predicted, labels = self._answered(frame_tokens, action, reward, end, mask)
        with torch.no_grad():
            parts = (predicted.observation[:, :-1], predicted.reward, predicted.end)
            each = sum(_by_window(logits, asked) for logits, asked in zip(parts, labels, strict=True))
        assert isinstance(each, Tensor)
        return _averaged(predicted, labels), each

    def _answered(
        self, frame_tokens: Tensor, action: Tensor, reward: Tensor, end: Tensor, mask: Tensor
    ) -> tuple[Predictions, Labels]:
        """Return what the model foretells of windows, and what it should."""
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise BadSetting("mask: wanted padding on the right only, got it before a step; use 'pad_right'")
        if bool((end[:, :-1] & mask[:, 1:]).any()):
            raise BadSetting("end: wanted windows inside one episode, got a step after an end; use 'inside'")
        tokens = torch.cat((frame_tokens, action.unsqueeze(2)), 2).flatten(1)  # (B, L·(K+1))
        return self(tokens), self._labels(frame_tokens, reward, end, mask)

    def _labels(self, frame_tokens: Tensor, reward: Tensor, end: Tensor, mask: Tensor) -> Labels:
        """Return what `forward` should have foretold, IGNORED where nothing is asked."""
        hidden = ~mask
        # The flat logit before each frame token predicts it; nothing precedes the first one, and nothing
        # follows the last action.
        labels = frame_tokens.masked_fill(hidden.unsqueeze(2), IGNORED)
        if self.config.skip_first:
            labels[:, 0] = IGNORED
        reward_class = (reward.sign() + 1).long().masked_fill(hidden, IGNORED)
        return Labels(labels.flatten(1)[:, 1:], reward_class, end.long().masked_fill(hidden, IGNORED))

    def _embed(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        first, last = start % self.block, self.block - 1
        if first + (stop - start) <= last:
            x = self.frame_tokens(tokens)
        elif stop - start == 1:
            x = self.action_tokens(tokens)
        else:
            position = torch.arange(start, stop, device=tokens.device)
            # Each table reads every token, so the numbers that belong to the other table are cut to its size.
            as_action = self.action_tokens(tokens.clamp(max=self.action_tokens.num_embeddings - 1))
            as_frame = self.frame_tokens(tokens.clamp(max=self.frame_tokens.num_embeddings - 1))
            x = torch.where((position % self.block == last).unsqueeze(1), as_action, as_frame)
        placed: Tensor
        if self.slots is None:
            placed = x + self.positions.weight[start:stop]
        else:
            position = torch.arange(start, stop, device=tokens.device)
            placed = x + self.positions(position // self.block) + self.slots(position % self.block)
        return placed


def _averaged(predicted: Predictions, labels: Labels) -> WorldModelLosses:
    observation = _cross_entropy(predicted.observation[:, :-1], labels.observation)
    reward, end = _cross_entropy(predicted.reward, labels.reward), _cross_entropy(predicted.end, labels.end)
    return WorldModelLosses(observation + reward + end, observation, reward, end)


def _by_window(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of each row (B, n, classes) over its labels (B, n); 0 where there is none."""
    each = F.cross_entropy(logits.float().mT, labels, ignore_index=IGNORED, reduction="none")
    return each.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def _initialise(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)

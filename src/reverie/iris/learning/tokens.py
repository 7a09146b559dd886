"""Batches whose observations are tokens: kept beside a buffer on the device, or made anew as they are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie import ReplayBuffer, Sampler, Union
from reverie.batch import Batch
from reverie.iris.models import Tokenizer
from reverie.torch import DeviceMirror, to_device

TOKENS = "tokens"
Replay = ReplayBuffer | Union
"""What batches are drawn from: one buffer, or several as one."""


class DrawnTokens:
    """Draws windows from several buffers as one, which no mirror can follow, and encodes their frames each time.

    Args:
        tokenizer: as it is when a window is drawn. replay: holds `obs` as one uint8 array a step.
    """

    def __init__(self, tokenizer: Tokenizer, replay: Replay) -> None:
        self._tokenizer, self._replay = tokenizer, replay

    @torch.no_grad()
    def sample(
        self, batch_size: int, length: int, *, boundary: str, sampler: Sampler | None, obs: str
    ) -> Batch[Tensor]:
        """Return windows as `DeviceMirror.sample` does; `obs` is TOKENS: (B, L+1, tokens of a frame) int64."""
        assert obs == TOKENS
        device = self._tokenizer.embedding.weight.device
        batch = to_device(self._replay.sample(batch_size, length, boundary=boundary, sampler=sampler), device)
        seen = batch.obs  # (B, L+1, C, H, W)
        tokens = self._tokenizer.encode(seen.flatten(0, 1).float() / 255).tokens  # (B * (L+1), K)
        tokens = tokens.view(*seen.shape[:2], -1)
        found: Batch[Tensor] = batch.map(lambda array: tokens if array is seen else array)
        return found

    def touch(self, name: str) -> None:
        """Do nothing: no token is kept that could be out of date."""


Tokens = DeviceMirror | DrawnTokens


def mirror_tokens(tokenizer: Tokenizer, buffer: ReplayBuffer) -> DeviceMirror:
    """Return the frames of a buffer on the tokenizer's device, with their tokens as the derived column TOKENS.

    A frame's tokens are made when a batch first needs them. `mirror.touch(TOKENS)` says that the tokenizer has
    learned since, and that all are to be made anew.
    """
    mirror = DeviceMirror(buffer, tokenizer.embedding.weight.device)

    def encode(obs: Tensor) -> Tensor:
        return tokenizer.encode(obs.float() / 255).tokens

    mirror.derive(TOKENS, encode, shape=(tokenizer.config.tokens_per_frame,), dtype=torch.int64)
    return mirror


def tokens_of(tokenizer: Tokenizer, replay: Replay) -> Tokens:
    """Return a mirror of one buffer, or what draws from several."""
    if isinstance(replay, ReplayBuffer):
        return mirror_tokens(tokenizer, replay)
    return DrawnTokens(tokenizer, replay)

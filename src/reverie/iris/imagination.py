"""The imagined game: one real frame, then whatever the world model believes happens after each action.

After Micheli, Alonso, Fleuret, "Transformers are Sample-Efficient World Models", ICLR 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reverie import BadSetting
from reverie.iris.tokenizer import Tokenizer
from reverie.iris.transformer import Cache
from reverie.iris.world_model import Predictions, WorldModel


class Imagined(NamedTuple):
    """What came of an action, for B games.

    Attributes:
        frame: (B, C, H, W) float32 in 0..1.
        reward: (B,) float32, one of -1, 0 and 1.
        end: (B,) bool.
    """

    frame: Tensor
    reward: Tensor
    end: Tensor


class Imagination:
    """Plays B games that exist only in the world model.

    Both models are put into evaluation mode. When the next step does not fit into the model's context, it
    forgets all but the current frame and goes on from there.

    Args:
        tokenizer, world_model: trained together.
        temperature: of sampling; 1 samples as the model believes, 0 takes the likeliest token.
        generator: where chance comes from; None takes PyTorch's own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        world_model: WorldModel,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if temperature < 0:
            raise BadSetting(
                f"temperature: wanted at least 0, got {temperature}; 0 takes the likeliest token"
            )
        self.tokenizer = tokenizer.eval()
        self.world_model = world_model.eval()
        self.temperature = temperature
        self.generator = generator
        self._tokens: Tensor | None = None  # (B, K), the current frame
        self._cache: Cache | None = None

    @torch.no_grad()
    def reset(self, frame: Tensor) -> Tensor:
        """Begin at real frames (B, C, H, W) in 0..1 and return them as the tokenizer shows them."""
        self._tokens = self.tokenizer.encode(frame).tokens
        self._cache = self.world_model.new_cache(len(frame))
        self.world_model(self._tokens, self._cache)
        return self.tokenizer.decode_tokens(self._tokens)

    @torch.no_grad()
    def step(self, action: Tensor) -> Imagined:
        """Return what comes of actions (B,) int64.

        Raises:
            BadSetting: `reset` was not called before.
        """
        if self._tokens is None or self._cache is None:
            raise BadSetting("step: wanted a game in progress, got none; call reset with a real frame first")
        if self._cache.size + self.world_model.block > self.world_model.max_tokens:
            self._cache.clear()
            self.world_model(self._tokens, self._cache)
        predicted: Predictions = self.world_model(action.unsqueeze(1), self._cache)
        reward = self._sample(predicted.reward[:, -1]).float() - 1
        end = self._sample(predicted.end[:, -1]).bool()
        tokens = []
        for _ in range(self._tokens.shape[1]):
            tokens.append(self._sample(predicted.observation[:, -1]))
            # The last frame token is followed by an action: feeding it predicts nothing and fills the cache.
            predicted = self.world_model(tokens[-1].unsqueeze(1), self._cache)
        self._tokens = torch.stack(tokens, 1)
        return Imagined(self.tokenizer.decode_tokens(self._tokens), reward, end)

    def _sample(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(1)
        # The inverse of the cumulative distribution, about ten times faster than torch.multinomial here.
        steps = (logits.float() / self.temperature).softmax(1).cumsum(1)
        drawn = torch.rand(len(logits), 1, generator=self.generator, device=logits.device)
        return torch.searchsorted(steps, drawn).squeeze(1).clamp(max=logits.shape[1] - 1)

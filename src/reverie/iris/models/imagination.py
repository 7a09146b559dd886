"""The imagined game: a real frame, and then what the world model expects after each action.

After Micheli, Alonso, Fleuret, "Transformers are Sample-Efficient World Models", ICLR 2023.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reverie import BadSetting
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.transformer import Cache
from reverie.iris.models.world_model import WorldModel


class Imagined(NamedTuple):
    """What came of an action, for B games.

    Attributes:
        frame: (B, C, H, W) float32 in 0..1.
        reward: (B,) float32, one of -1, 0 and 1; where rewards are expected, their mean.
        end: (B,) bool.
    """

    frame: Tensor
    reward: Tensor
    end: Tensor


class Imagination:
    """Plays B games that exist only in the world model.

    Both models are put into evaluation mode. When the next step does not fit into the model's context, it
    forgets all but the current frame and goes on from there. Nothing here waits for the device: all that is
    drawn stays there.

    Args:
        tokenizer, world_model: trained together.
        temperature: of sampling; 1 samples as the model believes, 0 takes the likeliest token.
        reward: "sampled" draws one of -1, 0 and 1; "expected" takes their mean.
        generator: where chance comes from; None takes PyTorch's own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        world_model: WorldModel,
        *,
        temperature: float = 1.0,
        reward: Literal["sampled", "expected"] = "sampled",
        generator: torch.Generator | None = None,
    ) -> None:
        if temperature < 0:
            raise BadSetting(
                f"temperature: wanted at least 0, got {temperature}; 0 takes the likeliest token"
            )
        self.tokenizer = tokenizer.eval()
        self.world_model = world_model.eval()
        self.temperature = temperature
        self.reward = reward
        self.generator = generator
        self._tokens: Tensor | None = None  # (B, K), the current frame
        self._unread: Tensor | None = None  # (B, n), what the cache does not hold yet of the current frame
        self._cache: Cache | None = None

    @torch.no_grad()
    def reset(self, frame: Tensor, before: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Begin at real frames (B, C, H, W) in 0..1 and return them as the tokenizer shows them.

        Args:
            frame: where the games begin.
            before: what was seen, (B, T, C, H, W), and done, (B, T) int64, in the T steps before; a frame shows
                where a thing is, and only the one before it shows where it goes. None knows of nothing.

        Raises:
            BadSetting: more steps before than the model's context holds beside the game's first.
        """
        encoded = self.tokenizer.encode(frame)
        self._tokens = self._unread = encoded.tokens
        if self._cache is None or self._cache.batch != len(frame):
            self._cache = self.world_model.new_cache(len(frame))
        self._cache.clear()
        if before is not None and before[1].numel():
            frames, actions = before
            if frames.shape[1] >= self.world_model.config.blocks:
                raise BadSetting(
                    f"before: wanted fewer steps than the {self.world_model.config.blocks} of the model's context, "
                    f"got {frames.shape[1]}; pass the newest ones"
                )
            blocks = torch.cat((self.tokenizer.encode(frames).tokens, actions.unsqueeze(2)), 2)
            self.world_model.read(blocks.flatten(1), self._cache)
        return self.tokenizer.decode(encoded.z_q).clamp(0, 1)

    @torch.no_grad()
    def step(self, action: Tensor) -> Imagined:
        """Return what comes of actions (B,) int64.

        Raises:
            BadSetting: `reset` was not called before.
        """
        if self._tokens is None or self._unread is None or self._cache is None:
            raise BadSetting("step: wanted a game in progress, got none; call reset with a real frame first")
        model = self.world_model
        if self._cache.size + self._unread.shape[1] + model.block > model.max_tokens:
            self._cache.clear()
            self._unread = self._tokens
        # What is left of the last frame and the action are read together: a call less.
        read = model.read(torch.cat((self._unread, action.unsqueeze(1)), 1), self._cache)[:, -1]
        reward = self._reward(model.reward_head(read))
        end = self._draw(model.end_head(read)).bool()
        tokens = [self._draw(model.observation_head(read))]
        while len(tokens) < self._tokens.shape[1]:
            read = model.read(tokens[-1].unsqueeze(1), self._cache)[:, -1]
            tokens.append(self._draw(model.observation_head(read)))
        self._tokens = torch.stack(tokens, 1)
        self._unread = self._tokens[:, -1:]
        return Imagined(self.tokenizer.decode_tokens(self._tokens), reward, end)

    def _reward(self, logits: Tensor) -> Tensor:
        if self.reward == "sampled":
            return self._draw(logits).float() - 1
        chance = logits.softmax(1)
        return chance[:, 2] - chance[:, 0]

    def _draw(self, logits: Tensor) -> Tensor:
        return draw(logits, self.temperature, self.generator)


def draw(logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Return a class for each row of logits (B, n): (B,) int64, on the same device. Nothing waits for the device.

    Args:
        logits: one row for each draw.
        temperature: divides the logits; 0 takes the likeliest class.
        generator: where chance comes from; None takes PyTorch's own.
    """
    if temperature == 0:
        return logits.argmax(1)
    # The inverse of the cumulative distribution, about ten times faster than torch.multinomial here.
    steps = (logits.float() / temperature).softmax(1).cumsum(1)
    drawn = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    return torch.searchsorted(steps, drawn).squeeze(1).clamp(max=logits.shape[1] - 1)

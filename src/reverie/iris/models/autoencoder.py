"""The two halves of the tokenizer: an encoder from frames to grids of vectors, and a decoder back to frames."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.iris.config import NORM_GROUPS, TokenizerConfig
from reverie.iris.models.patches import Fold, Unfold


class _Kit(NamedTuple):
    """How one side of the tokenizer builds its layers."""

    channels: int
    kernel: int  # side of the convolutions
    normed: bool
    attention_at: tuple[int, ...] | None  # None: nowhere, not even in the middle

    @classmethod
    def of(cls, config: TokenizerConfig, *, normed: bool) -> _Kit:
        if config.local:
            return cls(config.channels, 1, normed, None)
        return cls(config.channels, 3, normed, config.attention_at)

    def conv(self, inward: int, outward: int) -> nn.Conv2d:
        return nn.Conv2d(inward, outward, self.kernel, padding=self.kernel // 2)

    def norm(self) -> nn.Module:
        return nn.GroupNorm(NORM_GROUPS, self.channels, eps=1e-6) if self.normed else nn.Identity()

    def step(self, outward: int) -> list[nn.Module]:
        return [self.norm(), nn.SiLU(), self.conv(self.channels, outward)]

    def level(self, side: int, blocks: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers.append(_Residual(self))
            if self.attention_at and side in self.attention_at:
                layers.append(_Attention(self))
        return layers

    def middle(self) -> list[nn.Module]:
        between = [] if self.attention_at is None else [_Attention(self)]
        return [_Residual(self), *between, _Residual(self)]


class _Residual(nn.Module):
    """Adds a correction made of two convolutions."""

    def __init__(self, kit: _Kit) -> None:
        super().__init__()
        self.body = nn.Sequential(*kit.step(kit.channels), *kit.step(kit.channels))

    def forward(self, x: Tensor) -> Tensor:
        corrected: Tensor = x + self.body(x)
        return corrected


class _Attention(nn.Module):
    """Adds what each place of the grid reads from all others, with a single head."""

    def __init__(self, kit: _Kit) -> None:
        super().__init__()
        self.norm = kit.norm()
        self.query, self.key, self.value, self.project = (
            nn.Conv2d(kit.channels, kit.channels, 1) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key, value = (layer(y).flatten(2).mT for layer in (self.query, self.key, self.value))
        read = F.scaled_dot_product_attention(query, key, value)  # (B, h·w, C)
        added: Tensor = x + self.project(read.mT.reshape(x.shape))
        return added


class _Step(nn.Module):
    """Adds what one convolution sees."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.conv(x).relu()
        return added


def _lean(inward: int, channels: int, outward: int, kernel: int) -> list[nn.Module]:
    steps = [_Step(channels, kernel), _Step(channels, 1)]
    return [nn.Conv2d(inward, channels, 1), nn.ReLU(), *steps, nn.Conv2d(channels, outward, 1)]


def build_encoder(config: TokenizerConfig) -> nn.Sequential:
    """Return the network from frames (B, C, H, W) in -1..1 to vectors (B, D, h, w)."""
    if config.lean:
        shape, kernel = config.patch_shape, 1 if config.local else 3
        folded = config.frame[0] * shape[0] * shape[1]
        lean = _lean(folded, config.channels, config.token_dim, kernel)
        return nn.Sequential(Fold(shape), *lean)
    kit = _Kit.of(config, normed=not config.local)
    side = config.frame[1] // config.patch
    layers = [nn.PixelUnshuffle(config.patch), kit.conv(config.frame[0] * config.patch**2, kit.channels)]
    for level in range(config.levels):
        if level:
            # One more row and column on the right and below, so that the grid halves exactly.
            layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(kit.channels, kit.channels, 3, stride=2)]
            side //= 2
        layers += kit.level(side, config.res_blocks)
    return nn.Sequential(*layers, *kit.middle(), *kit.step(config.token_dim))


def build_decoder(config: TokenizerConfig) -> nn.Sequential:
    """Return the network from vectors (B, D, h, w) to frames (B, C, H, W)."""
    if config.lean:
        shape, kernel = config.patch_shape, 1 if config.local else 3
        folded = config.frame[0] * shape[0] * shape[1]
        lean = _lean(config.token_dim, config.channels, folded, kernel)
        return nn.Sequential(*lean, Unfold(shape))
    kit = _Kit.of(config, normed=True)
    side = config.grid[0]
    layers = [kit.conv(config.token_dim, kit.channels), *kit.middle()]
    for level in range(config.levels):
        if level:
            layers += [nn.Upsample(scale_factor=2), kit.conv(kit.channels, kit.channels)]
            side *= 2
        layers += kit.level(side, config.res_blocks + 1)
    layers += kit.step(config.frame[0] * config.patch**2)
    return nn.Sequential(*layers, nn.PixelShuffle(config.patch))

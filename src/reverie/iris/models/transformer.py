"""A causal transformer with a cache of keys and values. It reads whole sequences, or one token at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cache:
    """The keys and values of the tokens read so far, in memory allocated once.

    Args:
        shape: (layers, batch, heads, capacity, head_dim); `capacity` is the longest sequence, in tokens.
        dtype: of the keys and values.
        device: where the memory lies.
    """

    def __init__(
        self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        capacity = shape[3]
        self.sees = torch.ones(capacity, capacity, dtype=torch.bool, device=device).tril()  # [reader, read]
        self.size = 0  # tokens held, the position of the next one

    @property
    def batch(self) -> int:
        """How many sequences it holds side by side."""
        return self.keys.shape[1]

    def clear(self) -> None:
        """Forget every token; the memory stays."""
        self.size = 0


class Transformer(nn.Module):
    """Pre-norm layers of causal self-attention and a two-layer perceptron, closed by a norm.

    Args:
        layers, heads, width: sizes.
        dropout: probability of zeroing in training, on attention and on both residual branches.
    """

    def __init__(self, layers: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(heads, width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Return what the layers make of tokens (B, T, width), each seeing itself and those before it.

        With a cache, the tokens continue the sequence that it holds, and join it.
        """
        for number, layer in enumerate(self.layers):
            x = layer(x, cache, number)
        if cache is not None:
            cache.size += x.shape[1]
        closed: Tensor = self.norm(x)
        return closed


class _Layer(nn.Module):
    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = _SelfAttention(heads, width, dropout)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, cache: Cache | None, number: int) -> Tensor:
        x = x + self.attention(self.norm_attention(x), cache, number)
        raised: Tensor = x + self.mlp(self.norm_mlp(x))
        return raised


class _SelfAttention(nn.Module):
    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Cache | None, number: int) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        # Each (B, heads, T, dim).
        query, key, value = self.query_key_value(x).view(shape).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        if cache is None:
            read = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        else:
            start, stop = cache.size, cache.size + length
            cache.keys[number, :, :, start:stop] = key
            cache.values[number, :, :, start:stop] = value
            keys, values = cache.keys[number, :, :, :stop], cache.values[number, :, :, :stop]
            # Spelt out, this is faster for a token or two than the fused call. That one's `is_causal` would
            # besides align the new tokens with the oldest keys.
            scores = (query @ keys.mT) * (width // self.heads) ** -0.5
            if length > 1:  # a single new token sees everything
                scores = scores.masked_fill(~cache.sees[start:stop, :stop], -torch.inf)
            read = F.dropout(scores.softmax(-1), dropout) @ values
        joined: Tensor = self.drop(self.project(read.transpose(1, 2).reshape(batch, length, width)))
        return joined

"""Tokens by their looks: what the world model knows of a code is the patch that it shows.

A code's number says nothing. When the tokenizer learns on, a patch may get another code, and with a vector for each
number the model has to learn the code anew; of a patch with one brick less it knows nothing at all. Here both the
vector that stands for a code and the one that answers are compared with are made from its pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_SPREAD = 0.1  # keeps pixels that are nearly the same in all codes from being blown up


class _Shown(nn.Module):
    """A vector for each code, made from the patch that it shows.

    Args:
        codes: V. pixels: numbers in a patch. width: the length of a vector.
    """

    def __init__(self, codes: int, pixels: int, width: int) -> None:
        super().__init__()
        self.num_embeddings = codes
        self.patches: Tensor
        self.register_buffer("patches", torch.zeros(codes, pixels))
        self.read = nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, width))
        self._table: Tensor | None = None  # the vectors, while neither weights nor patches change
        self.register_load_state_dict_post_hook(lambda module, keys: self._forget())  # type: ignore[no-untyped-call]

    def see(self, patches: Tensor) -> None:
        """Take note of what the codes show now, (V, pixels) in 0..1."""
        self.patches.copy_(patches)
        self._forget()

    def train(self, mode: bool = True) -> Any:
        """Switch between training and use, as PyTorch's modules do."""
        self._forget()
        return super().train(mode)

    def table(self) -> Tensor:
        """Return the vectors (V, width)."""
        # On an accelerator they are made in every call: a graph that was captured reads weights, which may change, and
        # must not read what was made of them once.
        if self.training or torch.is_grad_enabled() or self.patches.device.type != "cpu":
            return self._made()
        if self._table is None:
            self._table = self._made()
        return self._table

    def _made(self) -> Tensor:
        # Codes differ in a few pixels. Without this their vectors are nearly the same, and little is learned.
        spread, mean = torch.std_mean(self.patches, 0)
        made: Tensor = self.read((self.patches - mean) / (spread + LEAST_SPREAD))
        return made

    def _forget(self) -> None:
        self._table = None


class LookEmbedding(_Shown):
    """Stands in for an embedding of tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors (…, width) of tokens (…) int64."""
        return F.embedding(tokens, self.table())


class LookHead(_Shown):
    """Stands in for the head that answers with a token: its answer is compared with what each code shows."""

    def __init__(self, codes: int, pixels: int, width: int) -> None:
        super().__init__(codes, pixels, width)
        self.answer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (…, V) for what the model has read, (…, width)."""
        logits: Tensor = self.answer(x) @ self.table().T
        return logits

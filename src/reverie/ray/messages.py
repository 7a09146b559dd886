"""What a draw sends to a shard and back: lists of words and numbers, which Ray packs many times as fast as objects."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reverie.ray.lent import Bytes, Loan
from reverie.samplers import Sampler
from reverie.union import Answer, Request

Flat = list[Any]
News = list[tuple[str, int, Sampler | None]]


class Seed(NamedTuple):
    """What a random generator is made from."""

    first: int
    second: int


class Asked(NamedTuple):
    """What a learner asks a shard for.

    Attributes:
        learner: its name. life: what `join` returned to it.
        news: what happened to the learner's samplers since: "learn", "imitate" or "forget", and arguments.
        loan: memory of the learner's for the batch, if there is to be one.
        name, args: the call of the part.
    """

    learner: str
    life: str
    news: News
    loan: Loan | None
    name: str
    args: tuple[Any, ...]

    def flat(self) -> Flat:
        """Return it as it travels."""
        loan = None if self.loan is None else list(self.loan)
        return [self.learner, self.life, self.news, loan, self.name, [_flat(arg) for arg in self.args]]

    @classmethod
    def from_flat(cls, flat: Flat) -> Asked:
        """Return what came; seeds have become generators."""
        learner, life, news, loan, name, args = flat
        there = None if loan is None else Loan(*loan)
        return cls(learner, life, news, there, name, tuple(_argument(*arg) for arg in args))


class Sent(NamedTuple):
    """An answer with a batch, which travels without it.

    Attributes:
        answer: without its batch. rows: of the batch.
        block: its bytes, as its layout has them; None: they lie in the memory that was lent.
    """

    answer: Answer
    rows: int
    block: Bytes | None

    def flat(self) -> Flat:
        """Return it as it travels."""
        mass, scale = float(self.answer.mass), self.answer.scale
        told = None if scale is None else [float(scale[0]), int(scale[1])]
        return [mass, told, self.answer.broken, self.rows, self.block]

    @classmethod
    def from_flat(cls, flat: Flat) -> Sent:
        """Return what came."""
        mass, scale, broken, rows, block = flat
        told = None if scale is None else (scale[0], scale[1])
        return cls(Answer(mass, None, told, broken, own=False), rows, block)


def _flat(arg: Any) -> Flat:
    if isinstance(arg, Request):
        fields = None if arg.fields is None else sorted(arg.fields)
        place = [arg.key, list(arg.path), arg.exact]
        return ["request", arg.length, arg.boundary, arg.burn_in, place, fields, arg.stride]
    return ["seed", *arg] if isinstance(arg, Seed) else ["", arg]


def _argument(kind: str, *flat: Any) -> Any:
    if kind == "request":
        length, boundary, burn_in, (key, path, exact), fields, stride = flat
        wanted = None if fields is None else frozenset(fields)
        return Request(length, boundary, burn_in, key, tuple(path), exact, wanted, stride)
    return np.random.default_rng(flat) if kind == "seed" else flat[0]

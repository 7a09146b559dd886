"""The imagined game: it equals a plain one without a cache, forgets by the rule, and samples as told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reverie import BadSetting
from reverie.iris.models.imagination import Imagination
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.world_model import WorldModel


def roughen(*models: torch.nn.Module) -> None:
    """Give fresh models strong opinions, so that equal answers are no accident."""
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))


def plain_dream(world_model: WorldModel, first: Tensor, actions: list[int]) -> list[list[int]]:
    """The likeliest tokens of each next frame, from the whole sequence every time: 4 tokens a frame, 30 at most."""
    frames = [first.tolist()]
    sequence = list(frames[0])
    for action in actions:
        if len(sequence) + 5 > 30:
            sequence = list(frames[-1])
        sequence.append(action)
        for _ in range(4):
            sequence.append(int(world_model(torch.tensor([sequence])).observation[0, -1].argmax()))
        frames.append(sequence[-4:])
    return frames


def test_it_equals_a_plain_dream_that_forgets_when_the_context_is_full(
    tokenizer: Tokenizer, world_model: WorldModel
) -> None:
    """Over three contexts each frame is the one a search without cache finds, with the same moments of forgetting."""
    roughen(tokenizer, world_model)
    start = torch.rand(1, 3, 16, 16)
    actions = torch.randint(3, (14,))
    game = Imagination(tokenizer, world_model, temperature=0)
    shown = [game.reset(start)] + [game.step(action).frame for action in actions.unsqueeze(1)]
    frames = plain_dream(world_model, tokenizer.encode(start).tokens[0], actions.tolist())
    assert len({tuple(frame) for frame in frames}) > 4
    for tokens, frame in zip(frames, shown, strict=True):
        assert torch.allclose(frame, tokenizer.decode_tokens(torch.tensor([tokens])), atol=1e-5)


def test_it_knows_what_came_before_its_first_frame(tokenizer: Tokenizer, world_model: WorldModel) -> None:
    """After two known steps the next frame is the likeliest after the whole sequence, known steps included."""
    roughen(tokenizer, world_model)
    game = Imagination(tokenizer, world_model, temperature=0)  # from here on nothing drops out
    seen = torch.rand(1, 3, 3, 16, 16)
    known = torch.tensor([[2, 0]])
    tokens = tokenizer.encode(seen).tokens[0]
    sequence = [*tokens[0].tolist(), 2, *tokens[1].tolist(), 0, *tokens[2].tolist(), 1]
    for _ in range(4):
        sequence.append(int(world_model(torch.tensor([sequence])).observation[0, -1].argmax()))
    game.reset(seen[:, 2], (seen[:, :2], known))
    frame = game.step(torch.tensor([1])).frame
    assert torch.allclose(frame, tokenizer.decode_tokens(torch.tensor([sequence[-4:]])), atol=1e-5)
    game.reset(seen[:, 2])
    assert not torch.allclose(game.step(torch.tensor([1])).frame, frame, atol=1e-3)


def test_more_steps_before_than_the_context_holds_are_refused(
    tokenizer: Tokenizer, world_model: WorldModel
) -> None:
    """Six blocks of context hold the first frame and at most five steps before it."""
    game = Imagination(tokenizer, world_model)
    frames, actions = torch.rand(1, 6, 3, 16, 16), torch.zeros(1, 6, dtype=torch.int64)
    game.reset(frames[:, 5], (frames[:, :5], actions[:, :5]))
    game.step(actions[:, 0])
    with pytest.raises(BadSetting, match="fewer steps than the 6"):
        game.reset(frames[:, 5], (frames, actions))


def test_the_context_is_cleared_exactly_when_the_next_step_does_not_fit(
    tokenizer: Tokenizer, world_model: WorldModel
) -> None:
    """One frame and five steps fill 29 of 30 places, the newest token being read later; the sixth begins again."""
    game = Imagination(tokenizer, world_model)
    game.reset(torch.rand(2, 3, 16, 16))
    sizes = []
    for _ in range(7):
        game.step(torch.zeros(2, dtype=torch.int64))
        assert game._cache is not None
        sizes.append(game._cache.size)
    assert sizes == [8, 13, 18, 23, 28, 8, 13]


def test_rewards_and_ends_are_drawn_from_their_heads(tokenizer: Tokenizer, world_model: WorldModel) -> None:
    """At temperature 1 classes come as often as their probabilities say; rewards are -1, 0 or 1."""
    for head, logits in ((world_model.reward_head, (2.0, 1.0, 0.0)), (world_model.end_head, (1.0, 0.0))):
        head[-1].weight.data.zero_()  # type: ignore[union-attr, operator]
        head[-1].bias.data = torch.tensor(logits)
    game = Imagination(tokenizer, world_model, generator=torch.Generator().manual_seed(1))
    game.reset(torch.rand(4000, 3, 16, 16))
    came = game.step(torch.zeros(4000, dtype=torch.int64))
    wanted = torch.tensor([2.0, 1.0, 0.0]).softmax(0)
    got = torch.stack([(came.reward == value).float().mean() for value in (-1, 0, 1)])
    assert torch.allclose(got, wanted, atol=0.03)
    assert came.end.float().mean().item() == pytest.approx(0.269, abs=0.03)
    assert came.frame.shape == (4000, 3, 16, 16)


def test_the_generator_decides(tokenizer: Tokenizer, world_model: WorldModel) -> None:
    """The same seed gives the same dream, another seed another one."""
    start, action = torch.rand(3, 3, 16, 16), torch.zeros(3, dtype=torch.int64)

    def play(seed: int) -> Tensor:
        game = Imagination(tokenizer, world_model, generator=torch.Generator().manual_seed(seed))
        game.reset(start)
        return torch.stack([game.step(action).frame for _ in range(3)])

    assert torch.equal(play(1), play(1))
    assert not torch.equal(play(1), play(2))


def test_a_step_before_the_first_frame_is_refused(tokenizer: Tokenizer, world_model: WorldModel) -> None:
    """The remedy is in the message."""
    with pytest.raises(BadSetting, match="call reset"):
        Imagination(tokenizer, world_model).step(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(BadSetting, match="at least 0"):
        Imagination(tokenizer, world_model, temperature=-1)

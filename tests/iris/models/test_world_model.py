"""The world model: sizes, alignment of labels, the cache, padding, learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reverie import BadSetting
from reverie.iris.config import Optimisation, WorldModelConfig, presets
from reverie.iris.learning.train import new_optimiser
from reverie.iris.models.world_model import Predictions, WorldModel

Window = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def window(batch: int, length: int, *, tokens: int = 4, codes: int = 32, actions: int = 3) -> Window:
    """Random frame tokens, actions, rewards in -2..2, an end at the last step of every other row, no padding."""
    end = torch.zeros(batch, length, dtype=torch.bool)
    end[::2, -1] = True
    return (
        torch.randint(codes, (batch, length, tokens)),
        torch.randint(actions, (batch, length)),
        torch.randint(-2, 3, (batch, length)).float(),
        end,
        torch.ones(batch, length, dtype=torch.bool),
    )


@pytest.mark.parametrize("actions", [4, 18])
def test_the_paper_preset_has_the_published_number_of_parameters(actions: int) -> None:
    """There are 8,446,469 parameters and 256 for every action."""
    sizes = presets["paper"].world_model
    world_model = WorldModel(sizes, tokens_per_frame=16, codebook_size=512, actions=actions)
    assert sum(p.numel() for p in world_model.parameters()) == 8_446_469 + 256 * actions


def test_an_untrained_model_knows_nothing() -> None:
    """The losses of the paper's sizes begin near the logarithms of the numbers of answers."""
    world_model = WorldModel(
        presets["paper"].world_model, tokens_per_frame=16, codebook_size=512, actions=4
    ).eval()
    losses = world_model.losses(*window(2, 20, tokens=16, codes=512, actions=4))
    assert losses.observation.item() == pytest.approx(6.24, abs=0.15)
    assert losses.reward.item() == pytest.approx(1.10, abs=0.2)
    assert losses.end.item() == pytest.approx(0.69, abs=0.2)
    assert losses.total.item() == pytest.approx(8.03, abs=0.3)


def test_logits_come_at_the_right_positions(world_model: WorldModel) -> None:
    """Every position but a frame's last token asks for a frame token; every action asks for reward and end."""
    tokens = torch.randint(3, (2, 12))  # two whole blocks of 4 + 1 and two tokens of a third
    predicted = world_model(tokens)
    assert predicted.observation.shape == (2, 4 + 4 + 2, 32)
    assert predicted.reward.shape == (2, 2, 3)
    assert predicted.end.shape == (2, 2, 2)


def test_labels_meet_the_logits_that_precede_them(
    world_model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle that knows the future at every position has no loss; one that is off by a token has."""
    frame_tokens, action, reward, end, mask = window(2, 3)

    def oracle(shift: int) -> Predictions:
        # Walk the sequence as a reader would: at each position, what is the next frame token?
        stream = [(t, k) for t in range(3) for k in range(4)]
        observation = torch.zeros(2, 12, 32)
        for row in range(2):
            asked = 0
            for t in range(3):
                for slot in (0, 1, 2, 4):  # slot 3 is followed by the action, slot 4 is the action
                    now = stream.index((t, min(slot, 3)))
                    following = stream[min(now + 1 + shift, 11)]
                    observation[row, asked, frame_tokens[row][following]] = 50.0
                    asked += 1
        rewards = 50.0 * torch.nn.functional.one_hot((reward.sign() + 1).long(), 3)
        return Predictions(observation, rewards, 50.0 * torch.nn.functional.one_hot(end.long(), 2))

    for shift in (0, 1):
        monkeypatch.setattr(world_model, "forward", lambda tokens, shift=shift: oracle(shift))
        losses = world_model.losses(frame_tokens, action, reward, end, mask)
        assert losses.reward < 1e-6
        assert losses.end < 1e-6
        assert (losses.observation < 1e-6) == (shift == 0)


def test_the_first_frame_may_be_left_out(world_model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `skip_first` the loss is the mean over the tokens of all frames but the first of each window."""
    frame_tokens, *rest = window(2, 3)
    logits = torch.randn(2, 12, 32)
    monkeypatch.setattr(world_model, "config", replace(world_model.config, skip_first=True))
    monkeypatch.setattr(
        world_model,
        "forward",
        lambda tokens: Predictions(logits, torch.zeros(2, 3, 3), torch.zeros(2, 3, 2)),
    )
    told = logits[:, 3:11].log_softmax(-1)  # before them come three inner tokens of the first frame
    wanted = -told.gather(2, frame_tokens[:, 1:].reshape(2, 8, 1)).mean()
    assert world_model.losses(frame_tokens, *rest).observation.item() == pytest.approx(
        wanted.item(), rel=1e-5
    )


def test_a_window_has_the_loss_that_it_would_have_alone(world_model: WorldModel) -> None:
    """Each is the total of a batch of that window alone, padding left out; the batch's loss is as without them."""
    world_model.eval()
    tokens, action, reward, end, mask = window(3, 4)
    mask[1, 2:] = False
    batch = tokens, action, reward, end & mask, mask
    losses, each = world_model.losses_by_window(*batch)
    assert losses == world_model.losses(*batch)
    assert not each.requires_grad
    for row in range(3):
        alone = world_model.losses(*(column[row : row + 1] for column in batch))
        assert each[row].item() == pytest.approx(alone.total.item(), rel=1e-5)


def test_actions_and_frames_are_read_from_their_own_tables(world_model: WorldModel) -> None:
    """A number means another thing at an action's place than at a frame's place."""
    seen: list[Tensor] = []
    world_model.eval().action_tokens.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    tokens = torch.zeros(1, 10, dtype=torch.int64)
    base = world_model(tokens).observation
    changed = tokens.clone()
    changed[0, 4] = 2  # the first action
    other = world_model(changed).observation
    assert torch.equal(base[:, :3], other[:, :3])  # positions 0, 1, 2 come before it
    assert not torch.allclose(base[:, 3], other[:, 3])
    with torch.no_grad():
        world_model.frame_tokens.weight[2] += 1
    assert torch.equal(world_model(changed).observation, other)


@pytest.mark.parametrize("positions", ["absolute", "factored"])
def test_reading_token_by_token_equals_reading_at_once(positions: str) -> None:
    """With the cache, after a prime by one frame of 16 tokens, every step's logits equal the whole sequence's."""
    sizes = WorldModelConfig(blocks=4, layers=3, heads=4, width=64, positions=positions)  # type: ignore[arg-type]
    world_model = WorldModel(sizes, tokens_per_frame=16, codebook_size=64, actions=3).eval()
    with torch.no_grad():
        for parameter in world_model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # far from the small initial weights
        tokens = torch.randint(3, (2, 68))
        whole = world_model(tokens)
        cache = world_model.new_cache(2)
        parts = [world_model(tokens[:, :16], cache)]
        parts += [world_model(tokens[:, at : at + 1], cache) for at in range(16, 40)]
        parts += [world_model(tokens[:, 40:47], cache), world_model(tokens[:, 47:], cache)]
    for name in Predictions._fields:
        joined = torch.cat([getattr(part, name) for part in parts], 1)
        assert torch.allclose(joined, getattr(whole, name), atol=1e-5), name


def test_a_sequence_beyond_the_context_is_refused(world_model: WorldModel) -> None:
    """One token too many is refused, with and without a cache."""
    tokens = torch.zeros(1, 31, dtype=torch.int64)
    with pytest.raises(BadSetting, match="at most 30"):
        world_model(tokens)
    cache = world_model.new_cache(1)
    world_model(tokens[:, :30], cache)
    with pytest.raises(BadSetting, match="got 31"):
        world_model(tokens[:, :1], cache)


def test_padding_changes_nothing(world_model: WorldModel) -> None:
    """Whatever stands on padded steps, the losses stay the same, and equal those of the steps alone."""
    frame_tokens, action, reward, end, mask = window(3, 6)
    end[:] = False
    mask[:, 4:] = False
    world_model.eval()
    losses = world_model.losses(frame_tokens, action, reward, end, mask)
    frame_tokens[:, 4:], action[:, 4:], reward[:, 4:] = 7, 1, 5.0
    end[:, 5] = True
    again = world_model.losses(frame_tokens, action, reward, end, mask)
    alone = world_model.losses(frame_tokens[:, :4], action[:, :4], reward[:, :4], end[:, :4], mask[:, :4])
    assert again == losses
    assert torch.allclose(torch.stack(alone), torch.stack(losses), atol=1e-6)
    action[:, 3] = (action[:, 3] + 1) % 3
    assert world_model.losses(frame_tokens, action, reward, end, mask) != losses


def test_windows_that_cannot_be_learned_from_are_refused(world_model: WorldModel) -> None:
    """Padding before a step, and a step after an end, are named."""
    frame_tokens, action, reward, end, mask = window(2, 4)
    left = mask.clone()
    left[0, 0] = False
    with pytest.raises(BadSetting, match="padding on the right"):
        world_model.losses(frame_tokens, action, reward, end, left)
    end[1, 1] = True
    with pytest.raises(BadSetting, match="inside one episode"):
        world_model.losses(frame_tokens, action, reward, end, mask)


def test_it_overfits_one_small_batch(world_model: WorldModel) -> None:
    """Four random windows are learned by heart but for their first tokens, which nothing foretells."""
    batch = window(4, 6)
    optimiser = new_optimiser(world_model, Optimisation(learning_rate=3e-3))
    for module in world_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for _ in range(200):
        losses = world_model.losses(*batch)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert losses.observation < 0.2
    assert losses.reward < 0.05
    assert losses.end < 0.05


def test_it_learns_a_batch_of_the_published_shape_by_heart() -> None:
    """Sixty-four random windows of twenty steps, of a token each, are known to less than a tenth of a nat."""
    sizes = WorldModelConfig(layers=2, heads=2, width=128, dropout=0.0, init_std=0.1)
    world_model = WorldModel(sizes, tokens_per_frame=1, codebook_size=512, actions=4)
    batch = window(64, 20, tokens=1, codes=512, actions=4)
    optimiser = new_optimiser(world_model, Optimisation(learning_rate=3e-3))
    for _ in range(60):
        losses = world_model.losses(*batch)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert losses.observation < 0.1


def test_only_linear_weights_decay(world_model: WorldModel) -> None:
    """Biases, norms and embeddings do not decay, and every parameter is optimised once."""
    decayed, free = new_optimiser(world_model, Optimisation(weight_decay=0.01)).param_groups
    assert decayed["weight_decay"] == 0.01
    assert free["weight_decay"] == 0
    tables = {world_model.frame_tokens.weight, world_model.action_tokens.weight, world_model.positions.weight}
    assert tables <= set(free["params"])
    assert all(parameter.ndim == 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 or parameter in tables for parameter in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(world_model.parameters()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 30}, "multiple of heads"),
        ({"dropout": 1.0}, "below 1"),
        ({"positions": "rotary"}, "choose one"),
    ],
)
def test_inconsistent_sizes_are_refused(change: dict[str, object], message: str) -> None:
    """Sizes that cannot work are refused when they are given."""
    with pytest.raises(BadSetting, match=message):
        WorldModelConfig(**change)  # type: ignore[arg-type]

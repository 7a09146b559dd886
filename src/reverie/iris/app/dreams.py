"""A dream beside what really happened: the same past, the same actions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reverie import ReplayBuffer
from reverie.iris.learning import to_frames
from reverie.iris.models import ActorCritic, Imagination, Tokenizer, WorldModel, draw
from reverie.pictures import Frames

DREAM_STEPS = 16
BEFORE = 3  # real steps that the model knows when its dream begins: where things are, and where they go
CANDIDATES = 256  # windows that the shown one is chosen from
LIVELIER_THAN = 0.75  # share of them in which fewer pixels change: something happens, but nothing rare
VISIBLE = 32  # of 255: a pixel is visibly wrong where a channel is off by more
REAL, RECONSTRUCTED, IMAGINED = "real", "reconstructed", "imagined with the same actions"
DIFFERENCE = "red: where dream and game differ"
ACTED = "imagined, the agent acting in it"
DIMMED = 3  # the game behind the red has so many times less light


class Dream(NamedTuple):
    """A dream of T steps and the game that it is about.

    Attributes:
        rows: label -> (T + 1, 3, H, W) uint8, in the order in which pictures show them; frame t came of step t,
            and frame 0 is the last real one that the model saw.
        actions: (T,) int64, what was done in game and dream alike.
        rewards: (T,) float32, what the game gave.
        imagined_rewards: (T,) float32, what the dream gave: signs.
    """

    rows: dict[str, Frames]
    actions: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float32]
    imagined_rewards: npt.NDArray[np.float32]


def dream(
    tokenizer: Tokenizer,
    world_model: WorldModel,
    buffer: ReplayBuffer,
    seed: int,
    *,
    steps: int = DREAM_STEPS,
    temperature: float = 1.0,
    actor_critic: ActorCritic | None = None,
) -> Dream:
    """Return a window of `buffer` several times: as it was, reconstructed, and imagined.

    Of many windows drawn uniformly it is one in which more pixels change than in most. The imagined row knows up to
    BEFORE real steps, frame 0 and the actions, nothing more. A row in red marks the pixels in which it is visibly
    wrong. With an actor-critic there is one row more, in which it acts on what is imagined, from the same past;
    after an imagined end the last frame stands.

    Args:
        tokenizer, world_model: trained together.
        buffer: where the window is drawn from.
        seed: fixes what is imagined.
        steps: of the dream; fewer where no episode is so long.
        temperature: of imagining.
        actor_critic: who acts in the last row, at temperature 1; None leaves that row out.

    Raises:
        NotEnoughData: no episode is as long as the shortest dream.
    """
    before = min(BEFORE, world_model.config.blocks - 1)
    while steps > 2 and not buffer.count_windows(before + steps):  # some games are over soon
        steps //= 2
    if not buffer.count_windows(before + steps):
        before = 0
    batch = buffer.sample(CANDIDATES, before + steps)
    shown = batch.obs[:, before:]
    changes = (shown != shown[:, :1]).any((1, 2)).sum((1, 2))  # (B,) pixels that ever change
    chosen = int(changes.argsort()[int(LIVELIER_THAN * len(changes))])
    device = tokenizer.embedding.weight.device
    real = to_frames(batch.obs[chosen], device)  # (before + T + 1, 3, H, W)
    actions = torch.from_numpy(batch.action[chosen]).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    game = Imagination(tokenizer, world_model, temperature=temperature, generator=generator)
    first, past = real[before : before + 1], (real[None, :before], actions[None, :before])
    imagined, rewards = [game.reset(first, past)], []
    for action in actions[before:].unsqueeze(1):
        frame, reward, _ = game.step(action)
        imagined.append(frame)
        rewards.append(float(reward))
    rows = {
        REAL: shown[chosen],
        RECONSTRUCTED: to_bytes(tokenizer.encode_decode(real[before:])),
        IMAGINED: to_bytes(torch.cat(imagined)),
    }
    rows[DIFFERENCE] = _marked(rows[REAL], rows[IMAGINED])
    if actor_critic is not None:
        game.reset(first, past)
        rows[ACTED] = to_bytes(torch.cat(_acted(game, actor_critic, imagined[0], steps + 1)))
    return Dream(
        rows, batch.action[chosen, before:], batch.reward[chosen, before:], np.array(rewards, np.float32)
    )


def visibly_wrong(frames: Frames, real: Frames) -> npt.NDArray[np.bool_]:
    """Return which pixels (…, H, W) of frames differ from the real ones by more than VISIBLE in any channel."""
    wrong: npt.NDArray[np.bool_] = (np.abs(frames.astype(np.int16) - real) > VISIBLE).any(-3)
    return wrong


def to_bytes(frames: torch.Tensor) -> Frames:
    """Return frames in 0..1 as uint8, on the processor."""
    return (255 * frames).round().byte().cpu().numpy()


@torch.no_grad()
def _acted(
    game: Imagination, actor_critic: ActorCritic, first: torch.Tensor, frames: int
) -> list[torch.Tensor]:
    shown, memory, over = [first], actor_critic.initial_memory(1), False
    while len(shown) < frames and not over:
        logits, _, memory = actor_critic(shown[-1], memory)
        frame, _, end = game.step(draw(logits, generator=game.generator))
        shown.append(frame)
        over = bool(end)
    return shown + shown[-1:] * (frames - len(shown))


def _marked(real: Frames, imagined: Frames) -> Frames:
    """Return the real frames (T, 3, H, W), darker and grey, with the pixels in red that the imagined ones miss."""
    grey = real.mean(1, keepdims=True) / DIMMED
    marked = np.broadcast_to(grey, real.shape).astype(np.uint8)
    red = np.array([255, 0, 0], np.uint8)[:, None, None]
    return np.where(visibly_wrong(imagined, real)[:, None], red, marked)

"""A dream beside what really happened: the same start, the same actions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from reverie import ReplayBuffer
from reverie.iris.actor_critic import ActorCritic
from reverie.iris.chance import draw
from reverie.iris.imagination import Imagination
from reverie.iris.tokenizer import Tokenizer
from reverie.iris.train import to_frames
from reverie.iris.world_model import WorldModel

DREAM_STEPS = 16
CANDIDATES = 256  # windows that the shown one is chosen from
REAL, RECONSTRUCTED, IMAGINED = "real", "reconstructed", "imagined from the first frame with the same actions"
ACTED = "imagined, the agent acting in it"


def dream(
    tokenizer: Tokenizer,
    world_model: WorldModel,
    buffer: ReplayBuffer,
    seed: int,
    *,
    temperature: float = 1.0,
    actor_critic: ActorCritic | None = None,
) -> dict[str, npt.NDArray[np.uint8]]:
    """Return a window of `buffer` several times: as it was, reconstructed, and imagined.

    Of many windows drawn uniformly it is the one in which most pixels ever change. The imagined row sees its
    first frame and its actions, nothing more. With an actor-critic there is one row more, in which it acts on what
    is imagined, from the same first frame; after an imagined end the last frame stands.

    Args:
        tokenizer, world_model: trained together.
        buffer: where the window is drawn from.
        seed: fixes what is imagined.
        temperature: of imagining.
        actor_critic: who acts in the last row, at temperature 1; None leaves that row out.

    Returns:
        label -> (T, 3, H, W) uint8, in the order in which pictures show them.

    Raises:
        NotEnoughData: no episode is as long as the shortest dream.
    """
    length = DREAM_STEPS
    while length > 2 and not buffer.count_windows(length):  # some games are over soon
        length //= 2
    batch = buffer.sample(CANDIDATES, length)
    changes = (batch.obs != batch.obs[:, :1]).any((1, 2)).sum((1, 2))  # (B,) pixels that ever change
    chosen = int(changes.argmax())
    device = tokenizer.embedding.weight.device
    real = to_frames(batch.obs[chosen], device)  # (T, 3, H, W)
    actions = torch.from_numpy(batch.action[chosen]).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    game = Imagination(tokenizer, world_model, temperature=temperature, generator=generator)
    imagined = [game.reset(real[:1])]
    imagined += [game.step(action).frame for action in actions.unsqueeze(1)]
    rows = {
        REAL: batch.obs[chosen],
        RECONSTRUCTED: _to_bytes(tokenizer.encode_decode(real)),
        IMAGINED: _to_bytes(torch.cat(imagined)),
    }
    if actor_critic is not None:
        rows[ACTED] = _to_bytes(torch.cat(_acted(game, actor_critic, real[:1], len(real))))
    return rows


@torch.no_grad()
def _acted(
    game: Imagination, actor_critic: ActorCritic, first: torch.Tensor, steps: int
) -> list[torch.Tensor]:
    shown, memory, over = [game.reset(first)], actor_critic.initial_memory(1), False
    while len(shown) < steps and not over:
        logits, _, memory = actor_critic(shown[-1], memory)
        frame, _, end = game.step(draw(logits, generator=game.generator))
        shown.append(frame)
        over = bool(end)
    return shown + shown[-1:] * (steps - len(shown))


def _to_bytes(frames: torch.Tensor) -> npt.NDArray[np.uint8]:
    return (255 * frames).round().byte().cpu().numpy()

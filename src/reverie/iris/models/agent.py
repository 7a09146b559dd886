"""The whole agent of IRIS: tokenizer, world model, actor-critic, and the games it imagines to learn from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from reverie import BadSetting
from reverie.iris.config import Config
from reverie.iris.models.actor_critic import ActorCritic, Judged, Memory
from reverie.iris.models.device import in_precision
from reverie.iris.models.imagination import Imagination, draw
from reverie.iris.models.tokenizer import Tokenizer
from reverie.iris.models.world_model import WorldModel

WARM_UPS = 2  # calls before a capture, in which libraries allocate what they keep


class Rollout(NamedTuple):
    """B games of T steps that were imagined, without gradient.

    Attributes:
        frames: (B, T+1, C, H, W) float32 in 0..1; the first is a real frame as the tokenizer shows it.
        action: (B, T) int64. reward: (B, T) float32. end: (B, T) bool.
        memory: of the actor-critic before the first frame.
    """

    frames: Tensor
    action: Tensor
    reward: Tensor
    end: Tensor
    memory: Memory


class Agent(nn.Module):
    """The three models together: it sees through the tokenizer, dreams in the world model, acts by the actor-critic.

    `docs/iris.md` lists the names of its weights.

    Args:
        config: the sizes, and what the parts are trained for.
        num_actions: A, how many actions the game has.
    """

    def __init__(self, config: Config, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.num_actions = num_actions
        self.tokenizer = Tokenizer(config.tokenizer)
        self.world_model = WorldModel(
            config.world_model,
            tokens_per_frame=config.tokenizer.tokens_per_frame,
            codebook_size=config.tokenizer.codebook_size,
            actions=num_actions,
            patch_pixels=config.tokenizer.patch_pixels,
        )
        self.actor_critic = ActorCritic(
            config.actor_critic, frame=config.tokenizer.frame, actions=num_actions
        )

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.tokenizer.embedding.weight.device

    @torch.no_grad()
    def look(self, frames: Tensor, memory: Memory) -> Judged:
        """Return what the agent says of real frames (B, C, H, W) in 0..1. It sees their reconstruction."""
        judged: Judged = self.actor_critic(self.tokenizer.encode_decode(frames), memory)
        return judged

    @torch.no_grad()
    def recall(self, frames: Tensor, mask: Tensor) -> Memory:
        """Return the memory that real frames (B, T, C, H, W) in 0..1 leave behind under the present weights.

        `mask` (B, T) bool is False where there is no frame.
        """
        if not frames.shape[1] or not self.config.actor_critic.recurrent:
            return self.actor_critic.initial_memory(len(frames))
        return self.actor_critic.recall(self.tokenizer.encode_decode(frames), mask)

    def new_game(self, generator: torch.Generator | None = None) -> Imagination:
        """Return games to be imagined, which keep their memory from rollout to rollout.

        `generator` is where chance comes from; None takes PyTorch's own.
        """
        reward = self.config.actor_critic_loss.reward
        return Imagination(self.tokenizer, self.world_model, reward=reward, generator=generator)

    @torch.no_grad()
    def imagine(self, frames: Tensor, mask: Tensor, game: Imagination | None = None) -> Rollout:
        """Play on from the last of real frames (B, T, C, H, W) in 0..1, by the policy and in imagination.

        Those before the last rebuild the memory; the world model sees the last one alone. The shapes of the
        answer depend on those of the question only, and nothing waits for the device.

        Args:
            frames: what was seen, newest last.
            mask: (B, T) bool; False where there is no frame. The last column is True.
            game: from `new_game`, to use its memory again; None takes a new one.
        """
        loss = self.config.actor_critic_loss
        # One region around all: half-precision copies of the weights are made once, not for every token.
        with in_precision("float32", frames.device):
            start = memory = self.recall(frames[:, :-1], mask[:, :-1])
            game = self.new_game() if game is None else game
            shown = [game.reset(frames[:, -1])]
            actions, rewards, ends = [], [], []
            for _ in range(loss.horizon - 1):
                logits, _, memory = self.actor_critic(shown[-1], memory)
                actions.append(draw(logits))
                imagined = game.step(actions[-1])
                shown.append(imagined.frame)
                rewards.append(imagined.reward)
                ends.append(imagined.end)
        return Rollout(
            torch.stack(shown, 1),
            torch.stack(actions, 1),
            torch.stack(rewards, 1),
            torch.stack(ends, 1),
            start,
        )


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    obs: Tensor
    mask: Tensor
    played: Rollout
    game: Imagination  # the graph writes into its memory, so it has to live as long


class Imagine:
    """Plays `Agent.imagine` on frames that come as bytes.

    Args:
        agent: imagines.
        captured: record the whole rollout as a CUDA graph at the first call of each batch shape, and replay it
            afterwards; the weights may change in place. The answer then lies in the graph's own memory, which
            the next call overwrites.

    Raises:
        BadSetting: to be captured, but not on a CUDA device.
    """

    def __init__(self, agent: Agent, *, captured: bool = False) -> None:
        if captured and agent.device.type != "cuda":
            raise BadSetting(
                f"captured: wanted an agent on a CUDA device, got one on {agent.device}; switch it off there"
            )
        self.agent = agent
        self.captured = captured
        self._game = agent.new_game()
        self._graphs: dict[torch.Size, _Captured] = {}

    def __call__(self, obs: Tensor, mask: Tensor) -> Rollout:
        """Return games that begin at the last of each row of frames.

        Args:
            obs: (B, T, C, H, W) uint8 on the agent's device. mask: (B, T) bool, False where there is no frame.
        """
        if not self.captured:
            return self._play(obs, mask, self._game)
        if obs.shape not in self._graphs:
            self._graphs[obs.shape] = self._capture(obs, mask)
        captured = self._graphs[obs.shape]
        captured.obs.copy_(obs)
        captured.mask.copy_(mask)
        captured.graph.replay()
        return captured.played

    def _play(self, obs: Tensor, mask: Tensor, game: Imagination) -> Rollout:
        return self.agent.imagine(obs.float() / 255, mask, game)

    def _capture(self, obs: Tensor, mask: Tensor) -> _Captured:
        its_obs, its_mask, game = obs.clone(), mask.clone(), self.agent.new_game()
        # Capturing needs libraries that are warm, on a stream that is not the default one.
        aside = torch.cuda.Stream(obs.device)  # type: ignore[no-untyped-call]  # PyTorch gives it no types
        aside.wait_stream(torch.cuda.current_stream(obs.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._play(its_obs, its_mask, game)
        torch.cuda.current_stream(obs.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            played = self._play(its_obs, its_mask, game)
        return _Captured(graph, its_obs, its_mask, played, game)

"""Imagination as one CUDA graph: hundreds of small calls become a single launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from reverie import BadSetting
from reverie.iris.models.agent import Agent, Rollout
from reverie.iris.models.imagination import Imagination
from torch import Tensor

WARM_UPS = 2  # calls before the capture, in which libraries allocate what they keep


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
        aside = torch.cuda.Stream(obs.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(obs.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._play(its_obs, its_mask, game)
        torch.cuda.current_stream(obs.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            played = self._play(its_obs, its_mask, game)
        return _Captured(graph, its_obs, its_mask, played, game)

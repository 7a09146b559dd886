"""The drop-in classes of TorchWM and Simulusion."""

from reverie.compat.replay import IRISReplayBuffer
from reverie.compat.trajectory import IRISOnPolicyBuffer

__all__ = ["IRISOnPolicyBuffer", "IRISReplayBuffer"]

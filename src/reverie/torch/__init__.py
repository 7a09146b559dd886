"""Bridges to PyTorch: batches as tensors on a device. This page lists the public names."""

# ruff: noqa: E402
from reverie.errors import need

need("torch")  # says how to install it

from reverie.feeds import Feed
from reverie.torch.dataset import SequenceDataset
from reverie.torch.feed import feed
from reverie.torch.mirror import DeviceMirror
from reverie.torch.tensors import to_device

__all__ = ["DeviceMirror", "Feed", "SequenceDataset", "feed", "to_device"]

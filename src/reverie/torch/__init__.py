"""Bridges to PyTorch: batches as tensors on a device. This page lists the public names."""

from reverie.feeds import Feed
from reverie.torch.dataset import SequenceDataset
from reverie.torch.mirror import DeviceMirror
from reverie.torch.ways import feed

__all__ = ["DeviceMirror", "Feed", "SequenceDataset", "feed"]

"""Batches drawn ahead of time, and on a device."""

from reverie.feeds.device import (
    DeviceBatch,
    DeviceRows,
    DeviceSequences,
    build,
    convert,
    tree_map,
    without_fields,
)
from reverie.feeds.feed import Feed, check_buffer, drawing

__all__ = [
    "DeviceBatch",
    "DeviceRows",
    "DeviceSequences",
    "Feed",
    "build",
    "check_buffer",
    "convert",
    "drawing",
    "tree_map",
    "without_fields",
]

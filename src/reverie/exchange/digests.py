"""One number for all observations, to see at a glance that what came in is what was there."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.buffer import ReplayBuffer
from reverie.values import tree_leaves

Array = npt.NDArray[Any]


def checksums(buffer: ReplayBuffer) -> dict[str, str]:
    """Return the SHA-256 of all observations, by field, each as 64 hexadecimal digits.

    The bytes are those of the episodes in the order of `buffer.episodes`: of each the observations (T, ...), then its
    final observation if it is known; C order, little-endian. For an observation that is one array this is the checksum
    of the data set's own arrays, T + 1 rows an episode. One episode is in memory at a time.

    Returns:
        `{"obs": ...}`, or one for each leaf of a nested observation: `{"obs/camera": ..., "obs/state": ...}`.
    """
    found = {name: hashlib.sha256() for name, _ in tree_leaves("obs", buffer.spec.obs)}
    for episode in buffer.read_episodes():
        for part in (episode.obs, episode.final_obs):
            for name, leaf in () if part is None else tree_leaves("obs", part):
                found[name].update(_little_endian(np.asarray(leaf)))
    return {name: digest.hexdigest() for name, digest in found.items()}


def _little_endian(leaf: Array) -> bytes:
    return leaf.astype(leaf.dtype.newbyteorder("<"), copy=False).tobytes()

"""Lets TorchRL's RayReplayBuffer draw in its own environment, and reads what it took."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.peers.__main__ import ONE_THREAD, ROOT, install, python_of
from benchmarks.shards.buffers import Sizes
from benchmarks.shards.figures import Table, rates

PEER = "torchrl-ray"
WAIT_S = 1200.0


class PeerFailed(Exception):
    """Their buffer cannot be installed, or does not run; the message says why."""


def peer(sizes: Sizes) -> dict[str, Table]:
    """Return their table.

    Raises:
        PeerFailed: it does not install, or does not run.
    """
    missing = install(PEER, WAIT_S)
    if missing:
        raise PeerFailed(missing)
    given = {key: getattr(sizes, key) for key in ("batch", "length", "steps", "rounds", "store_bytes")}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            str(python_of(PEER).absolute()),
            "-m",
            "benchmarks.shards.torchrl",
            str(out),
            json.dumps(given),
        ]
        run = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        if run.returncode:
            raise PeerFailed((run.stderr.splitlines() or ["no reason given"])[-1])
        found = json.loads(out.read_text())
    seconds = {name: np.array(values) for name, values in found["seconds"].items()}
    title = (
        f"TorchRL's RayReplayBuffer, one actor: {sizes.batch} slices of {sizes.length + 1} frames, "
        f"{found['bytes'] / 1e6:.1f} MB a batch"
    )
    return {"torchrl": Table(title, "batches a second", rates(seconds, ("Ray",), {}))}

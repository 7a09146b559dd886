"""Run one workload on one peer, in this process, and write what was found as JSON.

`python -m benchmarks.peers.worker PEER ADAPTER WORKLOAD OUT SETTINGS` is started by `python -m benchmarks.peers`.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from benchmarks.peers.correctness import correctness
from benchmarks.peers.drawing import (
    growth,
    pixels_long,
    pixels_short,
    prioritised,
    vectors_16x64,
    vectors_256x8,
)
from benchmarks.peers.face import CannotDo, Settings, Variant, adapter_of
from benchmarks.peers.storing import (
    add_pixels,
    add_vectors,
    drop_in_frames,
    drop_in_transposed,
    drop_in_vectors,
    lanes_pixels,
    lanes_vectors,
    saving,
)

WORKLOADS = {
    "pixels_long": pixels_long,
    "pixels_short": pixels_short,
    "vectors_16x64": vectors_16x64,
    "vectors_256x8": vectors_256x8,
    "growth": growth,
    "prioritised": prioritised,
    "add_pixels": add_pixels,
    "add_vectors": add_vectors,
    "lanes_pixels": lanes_pixels,
    "lanes_vectors": lanes_vectors,
    "saving": saving,
    "correctness": correctness,
}

# For classes of one name only, see DROP_INS.
DROP_IN_WORKLOADS = {
    "drop_in_frames": drop_in_frames,
    "drop_in_transposed": drop_in_transposed,
    "drop_in_vectors": drop_in_vectors,
}

STORING = ("add_pixels", "add_vectors", "lanes_pixels", "lanes_vectors", "saving")


def main(peer: str, adapter: str, workload: str, out: str, settings: str) -> None:
    """Write what was found, or what the peer cannot do."""
    try:
        make = adapter_of(Variant(peer, "", adapter))
        found = {**WORKLOADS, **DROP_IN_WORKLOADS}[workload](make, Settings(json.loads(settings)))
    except CannotDo as reason:
        found = {"cannot": str(reason)}
    except Exception as error:
        traceback.print_exc()
        found = {
            "failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

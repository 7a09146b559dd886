"""DreamerV3 1.5.0 itself, in an environment of its own: `python judge_dreamer.py write|read FOLDER ARRAYS.npz`.

`write` saves the rows of each stream with DreamerV3's own saver, `read` loads a folder with it and compares. The arrays are
named `stream/key`. The package's `embodied` is used alone: DreamerV3 itself would need JAX.
"""

import contextlib
import io
import sys
from collections import defaultdict
from importlib.util import find_spec

import numpy as np

verb, folder, path = sys.argv[1:4]
sys.path.insert(0, find_spec("dreamerv3").submodule_search_locations[0])

from embodied.replay.saver import Saver  # noqa: E402

streams: dict = defaultdict(dict)
for name, array in np.load(path).items():
    stream, _, key = name.partition("/")
    streams[int(stream)][key] = array

if verb == "write":
    saver = Saver(folder, chunks=16)
    with contextlib.redirect_stdout(io.StringIO()):
        longest = max(len(rows["reward"]) for rows in streams.values())
        for step in range(longest):
            for stream, rows in streams.items():
                if step < len(rows["reward"]):
                    saver.add({key: part[step] for key, part in rows.items()}, stream)
        saver.save(wait=True)
else:
    loaded: dict = defaultdict(lambda: defaultdict(list))
    for step, stream in Saver(folder).load(None, 1):
        for key, value in step.items():
            loaded[stream][key].append(value)
    wrong = abs(len(loaded) - len(streams))
    found = {
        rows["reward"][1].item(): rows for rows in loaded.values()
    }  # each stream begins with a reward of its own
    for stream, rows in streams.items():
        got = found.get(rows["reward"][1].item(), {})
        for key in (rows.keys() | got.keys()) - {"stepid"}:
            one, other = rows.get(key), np.array(got.get(key, []))
            if one is None or one.dtype != other.dtype or not np.array_equal(one, other):
                print(f"stream {stream}, {key}: {one!r} is not {other!r}"[:300])
                wrong += 1
    print(f"dreamerv3 1.5.0: {len(streams)} streams, {wrong} differences")
    sys.exit(bool(wrong))

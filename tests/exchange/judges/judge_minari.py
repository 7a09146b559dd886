"""Minari itself, in an environment of its own: `python judge_minari.py write|read ROOT ID ARRAYS.npz`.

`write` makes a data set of the arrays, `read` compares one with them. The arrays are named `n/observations/…`, `n/actions`,
`n/rewards`, `n/terminations`, `n/truncations`, `n/infos/…`, for each episode n.
"""

import os
import sys
import warnings
from collections import defaultdict

import numpy as np

verb, os.environ["MINARI_DATASETS_PATH"], dataset_id, path = sys.argv[1:5]
warnings.simplefilter("ignore")

import minari  # noqa: E402
from gymnasium import spaces  # noqa: E402
from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: E402


def nested(arrays: dict) -> dict:
    """Return a dict of dicts for names with slashes."""
    tree: dict = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        at = tree
        for part in above:
            at = at.setdefault(part, {})
        at[last] = array
    return tree


def flat(prefix: str, value: object) -> dict:
    """Return the arrays of nested dicts by name."""
    if not isinstance(value, dict):
        return {prefix: np.asarray(value)}
    return {
        name: leaf for key, child in value.items() for name, leaf in flat(f"{prefix}/{key}", child).items()
    }


def space(value: object) -> spaces.Space:
    """Return a space of what is there."""
    if isinstance(value, dict):
        return spaces.Dict({name: space(child) for name, child in value.items()})
    limits = np.iinfo(value.dtype) if value.dtype.kind in "iu" else np.finfo(value.dtype)
    return spaces.Box(limits.min, limits.max, value.shape[1:], value.dtype)


episodes: dict = defaultdict(dict)
for name, array in np.load(path).items():
    number, _, rest = name.partition("/")
    episodes[int(number)][rest] = array

if verb == "write":
    trees = [nested(episodes[number]) for number in sorted(episodes)]
    buffers = [
        EpisodeBuffer(id=n, seed=n + 5, options={"level": n}, **{name: tree[name] for name in tree})
        for n, tree in enumerate(trees)
    ]
    minari.create_dataset_from_buffers(
        dataset_id, buffer=buffers, observation_space=space(trees[0]["observations"]),
        action_space=space(trees[0]["actions"]), jpeg_encoding="jpeg" in sys.argv[5:],
    )  # fmt: skip
else:
    dataset = minari.load_dataset(dataset_id)
    wrong = 0 if dataset.total_episodes == len(episodes) else 1
    for episode in dataset.iterate_episodes():
        wanted, found = episodes[int(episode.id)], {}
        for part in ("observations", "actions", "rewards", "terminations", "truncations", "infos"):
            value = getattr(episode, part)
            found |= {} if value is None else flat(part, value)
        for name in wanted.keys() | found.keys():
            one, other = wanted.get(name), found.get(name)
            if one is None or other is None or one.dtype != other.dtype or not np.array_equal(one, other):
                print(f"episode {episode.id}, {name}: {one!r} is not {other!r}"[:300])
                wrong += 1
    print(f"minari {minari.__version__}: {len(episodes)} episodes, {wrong} differences")
    sys.exit(bool(wrong))

"""LeRobot 0.4.4 itself, in an environment of its own: `python judge_lerobot.py read|write FOLDER ARRAYS.npz`.

`read` loads a data set and compares every frame with the arrays, which are named as its features; `write` makes one of them.
Its videos need packages of torchvision's operators; they are not used here, and only their names are given.
"""

import os
import sys
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
verb, folder, path = sys.argv[1:4]

import torch  # noqa: E402

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

arrays = dict(np.load(path))
count = len(arrays["episode_index"])
if verb == "write":
    features = {
        "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
        "observation.side": {"dtype": "image", "shape": (8, 6, 3), "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    dataset = LeRobotDataset.create("judge/set", 10, features, root=Path(folder), use_videos=False)
    for frame in range(count):
        dataset.add_frame({
            "observation.state": arrays["observation.state"][frame], "observation.side": arrays["observation.side"][frame],
            "action": arrays["action"][frame], "next.reward": arrays["next.reward"][frame : frame + 1].astype(np.float32),
            "task": "judge",
        })  # fmt: skip
        if frame == count - 1 or arrays["episode_index"][frame + 1] != arrays["episode_index"][frame]:
            dataset.save_episode()
    dataset.finalize()
else:
    dataset = LeRobotDataset("judge/set", root=Path(folder))
    wrong = abs(len(dataset) - count)
    for frame in range(min(count, len(dataset))):
        item = dataset[frame]
        for name, rows in arrays.items():
            got, wanted = np.asarray(item[name]), rows[frame]
            if wanted.dtype == np.uint8:  # LeRobot gives images as floats from 0 to 1, channels first
                got = np.rint(got * 255).astype(np.uint8)
                got = got if wanted.shape[0] == 3 else got.transpose(1, 2, 0)
            if wanted.dtype == np.float64:  # LeRobot makes float32 of it; the file has it whole
                wanted = wanted.astype(np.float32)
            if not np.array_equal(got.reshape(wanted.shape), wanted):
                print(f"frame {frame}, {name}: {wanted!r} is not {got!r}"[:300])
                wrong += 1
        if not item["task"].startswith("do "):
            print(f"frame {frame}: task {item['task']!r}")
            wrong += 1
    print(f"lerobot 0.4.4: {count} frames, {wrong} differences")
    sys.exit(bool(wrong))

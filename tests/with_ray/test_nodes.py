"""A machine that is lost and comes back: what its shard has acknowledged is there, and writers and learners go on."""

import json
import subprocess
import sys

import pytest

import reverie as rv
from reverie.file import verdict_on

pytest.importorskip("ray")
pytestmark = pytest.mark.ray

# In a process of its own: a process is connected to one cluster at a time.
SCRIPT = """
import json, sys, ray, reverie as rv
from ray.cluster_utils import Cluster
from reverie.ray import ShardedBuffer

STORE = 80_000_000
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE})

def disk_machine():
    return cluster.add_node(num_cpus=1, resources={"disk": 1}, object_store_memory=STORE)

node = disk_machine()
ray.init(address=cluster.address, log_to_driver=False)
spec = rv.StepSpec(obs=rv.Field((2,), "int64"), action=rv.Field((), "int64"))
buffer = ShardedBuffer(spec, 1000, directory=sys.argv[1], options={"resources": {"disk": 1}}, wait_s=120.0, seed=0)
writer = buffer.writer(0)

def add(first, stop):
    for n in range(first, stop):
        writer.add(obs=[0, n], action=n, reward=0.0, terminated=False, truncated=False)
    writer.flush()

add(0, 100)
[before] = buffer.inspect()
cluster.remove_node(node, allow_graceful=False)  # its raylet is killed
disk_machine()
add(100, 150)
[after] = buffer.inspect()
drawn = buffer.sample(64, 5)
told = {"before": before, "after": after, "exact": bool((drawn.obs[:, 0, 1] == drawn.start).all())}
writer.close()
buffer.stop()
print("TOLD", json.dumps(told), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def test_a_shard_whose_machine_is_lost_goes_on_where_its_file_is(tmp_path):
    """The file's directory is there for the new machine, too; the shard waits until the old process lets go of it."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "shards")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    [line] = [line for line in ended.stdout.splitlines() if line.startswith("TOLD ")]
    told = json.loads(line[5:])
    assert told["before"]["process"] != told["after"]["process"]
    assert (told["before"]["steps"], told["after"]["steps"], told["exact"]) == (100, 150, True)
    path = told["after"]["path"]
    assert verdict_on(path).findings == []
    with rv.open(path, mode="r") as file:
        assert [episode.action.tolist() for episode in file.read_episodes()] == [
            list(range(100)),
            list(range(100, 150)),
        ]

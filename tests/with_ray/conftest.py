"""A cluster on this machine, and buffers on it."""

import pytest

import reverie as rv

SPEC = rv.StepSpec(
    obs=rv.Field((2,), "int64"), action=rv.Field((), "int64"), extras={"value": rv.Field((), "float32")}
)


@pytest.fixture(scope="module")  # other modules begin clusters of their own
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(
        "local", num_cpus=4, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def make(cluster, tmp_path):
    """Make sharded buffers that are stopped in the end."""
    from reverie.ray import ShardedBuffer

    made = []

    def make(capacity=40_000, **settings):
        made.append(
            ShardedBuffer(SPEC, capacity, **{"directory": tmp_path / "shards", "seed": 1, **settings})
        )
        return made[-1]

    yield make
    for buffer in made:
        buffer.stop()


def step(stream, number, ends=False):
    return {
        "obs": [stream, number],
        "action": number,
        "reward": 1.0,
        "terminated": ends,
        "truncated": False,
        "value": 0.0,
    }

"""A draw that asks for the same as the last one is answered as if it were the first."""

import numpy as np
import pytest

import reverie as rv
from reverie.batch import contents
from reverie.engine.layout import Layouts
from reverie.engine.plans import Plans
from reverie.index import EpisodeIndex
from support.batches import frame_spec, frames


def test_what_equals_but_is_another_thing_is_checked_again():
    """True equals 1 and 2.0 equals 2, and both are refused after 1 and 2 were taken."""
    buffer = frames()
    buffer.sample(1, 2)
    for sizes in ((True, 2), (1, 2.0), (1, np.float64(2))):
        with pytest.raises(rv.BadSetting):
            buffer.sample(*sizes)
    with pytest.raises(rv.BadSetting):
        buffer.sample(1, 2, burn_in=False)
    with pytest.raises(rv.BadSetting):
        buffer.sample(1, 2, fields=["nothing"])
    assert buffer.sample(1, 2).reward.shape == (1, 2)


def test_fields_are_looked_at_each_time():
    """A list of names may have changed, and the batch after it has all fields."""
    buffer, names = frames(), ["obs"]
    assert "action" not in contents(buffer.sample(2, 3, fields=names))
    names.append("action")
    assert "action" in contents(buffer.sample(2, 3, fields=names))
    assert "reward" in contents(buffer.sample(2, 3))


def test_a_batch_to_fill_is_checked_each_time():
    """One of another size is refused, though the last call of the same arguments had a good one."""
    buffer = frames()
    good, other = buffer.sample(4, 3), buffer.sample(5, 3)
    buffer.sample(4, 3, out=good)
    for wrong in (other, buffer.sample(4, 3, boundary="cross"), 7):
        with pytest.raises(rv.BadSetting, match="out"):
            buffer.sample(4, 3, out=wrong)
        buffer.sample(4, 3, out=good)


def test_discarded_episodes_are_left_out_of_the_next_draw():
    """Also where nothing else was asked in between."""
    buffer = frames(streams=1)
    before = {buffer.sample(50, 2).anchor.min() for _ in range(20)}
    first = buffer.episodes["stop"][:-2].max()
    assert min(before) < first
    buffer.discard(buffer.episodes.ids[:-2])
    assert min(buffer.sample(50, 2).anchor.min() for _ in range(20)) >= first


def test_a_buffer_that_was_emptied_says_so():
    """The plan of the last draw does not hide it."""
    index = EpisodeIndex(1, 8)
    plans = Plans(frame_spec(), index, Layouts(frame_spec()))
    asked = plans.wanted(2, 1, "inside", None, 0, None, 1)
    assert plans.wanted(2, 1, "inside", None, 0, None, 1) is asked
    index.head[0] = 3
    plan = plans.plan(asked, None)
    assert plans.plan(asked, None) is plan
    index.tail[0] = 3
    with pytest.raises(rv.NotEnoughData):
        plans.plan(asked, None)


def test_two_loops_take_turns_with_one_buffer():
    """Batches are those of two buffers, each of which was asked for one kind only; the generator is shared in turn."""
    one, two = frames(seed=3), frames(seed=3)
    for _ in range(5):
        for how in (
            {"batch_size": 4, "length": 3},
            {"batch_size": 2, "length": 5, "boundary": "pad_right", "stride": 2},
        ):
            got, wanted = one.sample(**how), two.sample(**how, fields=["obs", "action", "reward", "extras"])
            assert got.start.tolist() == wanted.start.tolist()
            assert got.obs.tobytes() == wanted.obs.tobytes()

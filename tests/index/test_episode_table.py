"""The table of episodes as users read it: by row, by column and by id, many or few, early or late."""

import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest

import reverie as rv
from reverie.conformance import Pair
from reverie.index import NO_EPISODE, EpisodeTable, entry_of, list_episodes
from reverie.index.table import FEW

NAMES = ("stream", "start", "stop", "length", "live", "return", "ended")


def many(streams, seed=0):
    """Return a pair with more than FEW live episodes, of which the oldest are gone already."""
    capacity = 900 // streams * streams
    return Pair(capacity, streams, mean_length=2, seed=seed).grow(*[1100 // streams] * streams)


def by_hand(pair):
    """Return the rows of the table, from the twin's lists."""
    twin, rows = pair.twin, []
    for steps in twin.live_episodes():
        stream, record = steps[0][0], twin.streams[steps[0][0]]
        number = record.steps[steps[0][1]].episode
        whole = [place for place, step in enumerate(record.steps) if step.episode == number]
        episode = record.episodes[number]
        ended = "terminated" if episode.terminated else "truncated" if episode.truncated else "cut"
        rows.append((stream, whole[0], whole[-1] + 1, len(whole), len(steps),
                     sum(record.steps[place].reward for place in whole), ended if episode.ended else "running"))  # fmt: skip
    return rows


@pytest.mark.parametrize("streams", [1, 3])
def test_every_way_to_a_row_agrees_with_the_twin(streams):
    """Single rows that were read late, columns, the structured array, and what is made of the few of a small buffer."""
    few = Pair(60 * streams, streams, mean_length=7, seed=3).grow(*[100] * streams)
    for pair in (many(streams), few):
        wanted = by_hand(pair)
        assert (len(wanted) > FEW) == (pair is not few)
        table = pair.buffer.episodes
        for number in (0, 1, len(wanted) // 2, len(wanted) - 1, -1, -2, -len(wanted), np.int64(5)):
            assert pair.buffer.episodes[number].item() == wanted[number]
            assert table[number].item() == wanted[number]
        for number in (len(wanted), -len(wanted) - 1):
            for one in (pair.buffer.episodes, table):
                with pytest.raises(
                    IndexError, match=f"wanted an episode in {-len(wanted)}..{len(wanted) - 1}, got"
                ):
                    one[number]
        assert np.asarray(table).tolist() == wanted
        assert table[-1].item() == wanted[-1]  # from the copy that there is now
        for place, name in enumerate(NAMES):
            assert table[name].tolist() == [row[place] for row in wanted]
            assert not table[name].flags.writeable
        orders = [pair.twin.episode_of(*steps[0]).order for steps in pair.twin.live_episodes()]
        assert table["id"].tolist() == table.ids.tolist() == orders
        assert list_episodes(pair.index).tolist() == wanted


def test_columns_for_a_data_frame():
    """as_dict has the id and every field, each an array of the caller's own, from one moment."""
    pair = many(2)
    table = pair.buffer.episodes
    wanted = np.asarray(table).copy()
    pair.grow(300, 300)
    columns = table.as_dict()
    assert tuple(columns) == ("id", *NAMES)
    for name in NAMES:
        assert columns[name].tolist() == wanted[name].tolist()
        assert columns[name].flags.c_contiguous
        columns[name][:] = columns[name][0]
    assert np.asarray(table).tolist() == wanted.tolist()
    assert pickle.loads(pickle.dumps(table)).tolist() == copy.deepcopy(table).tolist() == wanted.tolist()


def test_a_table_that_is_read_late_leaves_out_what_went():
    """It tells of the moment when it was asked for: not of later steps, and not of evicted episodes."""
    pair = many(2, seed=5)
    while by_hand(pair)[-1][-1] != "running":
        pair.grow(1, 1)
    table, wanted = pair.buffer.episodes, by_hand(pair)
    pair.grow(40, 25)
    left = {tuple(row[:2]) for row in by_hand(pair)}
    expected = [row for row in wanted if row[:2] in left]
    assert len(table) == len(expected) < len(wanted)
    running = [number for number, row in enumerate(expected) if row[-1] == "running"]
    assert running
    assert [expected[number] for number in running] != [row for row in by_hand(pair) if row[-1] == "running"]
    for number in (0, -1, *running):
        assert table[number].item() == expected[number]
    assert np.asarray(table).tolist() == expected
    pair.grow(500, 500)
    assert np.asarray(table).tolist() == expected
    gone = EpisodeTable(pair.index, nullcontext())
    pair.grow(2000, 2000)
    assert len(gone) == 0
    with pytest.raises(IndexError):
        gone[-1]
    assert gone.as_dict()["return"].shape == (0,)


@pytest.mark.parametrize("streams", [1, 4])
def test_an_id_finds_its_episode(streams):
    """Every live one, and no other number."""
    pair = many(streams, seed=1)
    index = pair.index
    live = {index.order.item(episode): episode for episode in index.live_episodes().tolist()}
    for number in range(-2, index.next_order + 2):
        assert entry_of(index, number) == live.get(number, NO_EPISODE)


def test_episodes_by_number():
    """episode(n) is the one in row n, also where some were discarded."""
    pair = many(3, seed=2)
    buffer = pair.buffer
    for _ in range(2):
        for number in (0, 7, len(buffer.episodes) // 2, -1, -3):
            row, episode = buffer.episodes[number], buffer.episode(number)
            assert (episode.stream, episode.begun, episode.start + len(episode)) == (
                row["stream"],
                row["start"],
                row["stop"],
            )
        for number in (len(buffer.episodes), -len(buffer.episodes) - 1):
            with pytest.raises(IndexError, match="wanted an episode in"):
                buffer.episode(number)
        buffer.discard([number for number in buffer.episodes.ids[3:-1:4].tolist() if _ended(buffer, number)])


def _ended(buffer, number):
    return buffer.episodes["ended"][buffer.episodes.ids == number][0] != "running"


def test_nothing_is_kept_of_a_discarded_episode_that_went():
    """Once it is evicted the index forgets that it was discarded, and looks for none any more."""
    pair = many(1, seed=6)
    buffer = pair.buffer
    buffer.discard(buffer.episodes.ids[:3])
    assert len(pair.index.gone) == 3
    pair.grow(900)
    assert not pair.index.gone
    assert not pair.index.labels


@pytest.mark.parametrize("count", [3, 100])
def test_metadata_by_id(count):
    """Of many episodes at once and of few, and an error that names the one that is not live."""
    buffer = many(2, seed=4).buffer
    ids = [number for number in buffer.episodes.ids[:-2].tolist() if _ended(buffer, number)][:count]
    for number in ids[:3]:
        buffer.annotate(episode=number, mark=number)
    marks = dict(zip(buffer.episodes.ids.tolist(), buffer.episodes.metadata, strict=True))
    assert {number for number, label in marks.items() if label} == set(ids[:3])
    with pytest.raises(rv.BadSetting, match=r"wanted one of buffer.episodes.ids, got 999999"):
        buffer.discard([*ids, 999999])
    buffer.discard(ids)
    assert not set(ids) & set(buffer.episodes.ids.tolist())
    for call in (lambda: buffer.annotate(episode=ids[0], mark=1), lambda: buffer.discard(ids)):
        with pytest.raises(rv.BadSetting, match=rf"wanted one of buffer.episodes.ids, got {ids[0]}"):
            call()

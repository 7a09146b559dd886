"""What a report shows, without a browser: frames pixel for pixel, chosen episodes, counts by hand."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.report import report
from reverie.report.data import choose, cover, play
from reverie.report.frames import as_pictures, is_frame, sheets_of

SPEC = rv.StepSpec(
    {"camera": rv.Field((3, 16, 12), "uint8"), "arm": rv.Field((3,), "float32"), "map": rv.Field((20,), "float64")},
    rv.Field((), "int64"), {"latent": rv.Field((2,), "float32")},
)  # fmt: skip


def obs(number):
    rng = np.random.default_rng(number)
    return {
        "camera": rng.integers(0, 256, (3, 16, 12), np.uint8),
        "arm": np.full(3, number, np.float32),
        "map": np.arange(20.0),
    }


def filled(lengths=(5, 9, 3), capacity=100, **settings):
    buffer = rv.ReplayBuffer(SPEC, capacity, seed=0, **settings)
    for episode, length in enumerate(lengths):
        for step in range(length):
            ends = step == length - 1
            buffer.add(
                obs=obs(100 * episode + step), action=step, reward=float(episode), terminated=ends, truncated=False,
                final_obs=obs(100 * episode + length) if ends else None, latent=np.array([step, np.nan], np.float32),
            )  # fmt: skip
        buffer.annotate(episode=int(buffer.episodes.ids[-1]), task=f"<b>{episode}</b>")
    return buffer


def unpacked(sheet, height, width):
    """The frames of a sheet, read by Pillow."""
    kind, data = sheet.data.split(",", 1)
    assert kind == "data:image/webp;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return np.stack([
        picture[at // sheet.across * height :, at % sheet.across * width :][:height, :width] for at in range(sheet.frames)
    ])  # fmt: skip


@pytest.mark.parametrize("shape", [(16, 12), (16, 12, 1), (1, 16, 12), (3, 16, 12), (16, 12, 3), (4, 16, 12)])
def test_sheets_hold_every_pixel(shape):
    """In grey and colour, channels first or last; of stacked frames the newest; more frames than one sheet takes."""
    rows = np.random.default_rng(0).integers(0, 256, (430, *shape), np.uint8)
    assert is_frame(rv.Field(shape, "uint8"))
    pictures = as_pictures(rows)
    assert pictures.shape == (430, 16, 12, 3)
    if shape == (3, 16, 12):
        np.testing.assert_array_equal(pictures[7, :, :, 1], rows[7, 1])
    if shape == (4, 16, 12):
        np.testing.assert_array_equal(pictures[7, :, :, 2], rows[7, 3])
    found = np.concatenate([unpacked(sheet, 16, 12) for sheet in sheets_of(pictures)])
    np.testing.assert_array_equal(found, pictures)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8,), "uint8"), ((16, 12), "float32"), ((2, 3, 4, 5), "uint8"), ((2, 2), "uint8")]
)
def test_other_arrays_are_no_frames(shape, dtype):
    assert not is_frame(rv.Field(shape, dtype))


def test_an_episode_is_played_as_it_was():
    """Ids, curves with null for what JSON has not, an image of a wide vector, frames with the final one."""
    buffer = filled()
    one = play(buffer, np.asarray(buffer.episodes), 1)
    assert one.ids == list(range(5, 14))
    assert (one.every, one.has_final) == (1, True)
    assert one.curves["reward"][1] == ("return so far", [float(n) for n in range(1, 10)])
    assert one.curves["obs/arm"][2] == ("obs/arm[2]", [100.0 + step for step in range(9)])
    assert one.curves["latent"][1] == ("latent[1]", [None] * 9)
    assert len(one.images["obs/map"]) == 20
    height, width, sheets = one.frames["obs/camera"]
    found = np.concatenate([unpacked(sheet, height, width) for sheet in sheets])
    assert len(found) == 10
    for step in range(10):
        np.testing.assert_array_equal(found[step], np.moveaxis(obs(100 + step)["camera"], 0, -1))


def test_a_long_episode_shows_every_so_many_steps():
    spec = rv.StepSpec(rv.Field((), "float32"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 5000, seed=0)
    for step in range(2500):
        buffer.add(obs=float(step), action=0, reward=1.0, terminated=False, truncated=False)
    one = play(buffer, np.asarray(buffer.episodes), 0)
    assert one.every == 3
    assert one.ids == list(range(0, 2500, 3))
    assert one.curves["reward"][1][1][:3] == [1.0, 4.0, 7.0]  # of all steps, not of those shown


def test_numbers_that_shift_meanwhile_show_the_same_episode():
    """Older episodes go while a page is made: another number is the same episode then, or none is."""
    buffer = filled((5, 9, 3), 20)
    table = np.asarray(buffer.episodes)
    buffer.extend(
        obs={name: np.stack([leaf] * 5) for name, leaf in obs(0).items()}, action=np.zeros(5, np.int64), reward=np.zeros(5, np.float32),
        terminated=np.zeros(5, bool), truncated=np.zeros(5, bool), latent=np.zeros((5, 2), np.float32),
    )  # fmt: skip
    assert len(buffer.episodes) == 4
    buffer.cut()
    for _ in range(4):
        buffer.add(
            obs=obs(0), action=0, reward=0.0, terminated=True, truncated=False, latent=np.zeros(2, np.float32)
        )
    assert play(buffer, table, 0) is None
    assert play(buffer, table, 2).curves["reward"][0][1] == [2.0] * 3


def test_what_is_worth_showing():
    """Newest, best, worst, longest, random in turn, each episode once; or those that were asked for."""
    table = np.asarray(filled((5, 9, 3, 7, 1)).episodes)
    order = choose(table, None, 0)
    assert order[0] == (4, "newest")
    assert (0, "worst") in order
    assert (1, "longest") in order
    assert sorted(number for number, _ in order) == [0, 1, 2, 3, 4]
    assert choose(table, [-1, 2, 2], 0) == [(4, "asked for"), (2, "asked for")]
    with pytest.raises(rv.BadSetting, match=r"wanted numbers in -5\.\.4, got 5"):
        choose(table, [5], 0)


def test_windows_are_counted_by_hand():
    """Episodes of 5, 9 and 3 steps: windows of 4 inside, steps in none of them, and the padding on the right."""
    buffer = filled()
    covered = cover(buffer, None, 4)
    assert covered.draws == 10_000
    assert sum(covered.shares) == pytest.approx(1)
    length, windows, left_out, padding = covered.windows[2]
    assert (length, windows) == (4, 2 + 6)
    assert left_out == pytest.approx(3 / 17)
    assert padding == pytest.approx((3 * (3 + 2 + 1)) / (17 * 4))
    assert buffer.sample(4_000, 4, boundary="pad_right").mask.mean() == pytest.approx(1 - padding, abs=0.02)
    assert covered.most_drawn[0][0] == 1  # the longest has the most anchors
    assert covered.most_drawn[0][1] == pytest.approx(9 / 17, abs=0.02)


def told_of(page):
    return json.loads(re.search(r'id="told">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_of_a_buffer_and_of_its_file(tmp_path):
    """The same episodes from memory and from the file; markup in metadata is text; nothing is replaced unasked."""
    with filled(path=tmp_path / "a.replay") as buffer:
        assert buffer.report(tmp_path / "memory.html") == tmp_path / "memory.html"
        while_written = report(tmp_path / "a.replay", tmp_path / "file.html")
    one, other = (told_of((tmp_path / name).read_text()) for name in ("memory.html", "file.html"))
    assert one["episodes"] == other["episodes"]
    page = while_written.read_text()
    assert "writes to it now" in page
    assert "<b>0</b>" not in page
    assert [kept["metadata"] for kept in other["episodes"] if kept["number"] == 0] == ['{"task": "<b>0</b>"}']
    with pytest.raises(rv.FileTaken):
        report(tmp_path / "a.replay", tmp_path / "file.html")
    with pytest.raises(rv.FileTaken, match="name a file in it"):
        report(tmp_path / "a.replay", tmp_path, force=True)
    with pytest.raises(
        rv.BadSetting, match="wanted a folder to put it in"
    ):  # before anything is read or drawn
        report(tmp_path / "none.replay", tmp_path / "none/file.html")
    report(tmp_path / "a.replay", tmp_path / "file.html", episodes=[2], force=True)
    assert [kept["number"] for kept in told_of((tmp_path / "file.html").read_text())["episodes"]] == [2]


def test_the_sampler_that_a_file_remembers_is_the_one_that_draws(tmp_path):
    """A sampler that remembers nothing was used first; the priorities are those of the one after it."""
    with filled((5, 9, 3, 7), path=tmp_path / "a.replay") as buffer:
        plain, replay = rv.Uniform(), rv.Prioritized()
        buffer.sample(1, 1, sampler=plain)
        batch = buffer.sample(200, 1, sampler=replay)
        errors = np.where(batch.step_ids()[:, 0] == 15, 1e6, 1e-6)  # of the third episode
        buffer.update_priorities(batch, td_errors=errors)
    page = report(tmp_path / "a.replay", tmp_path / "a.html").read_text()
    assert "by Prioritized()" in page
    drawn_most = re.search(r'Drawn most: <a href="#episode=(\d)">episode \d</a> \(([\d.]+)%\)', page)
    assert drawn_most[1] == "2"
    assert float(drawn_most[2]) > 90


@pytest.mark.parametrize("by", ["episode", "step"])
def test_visits_are_shown_as_they_are_kept(tmp_path, by):
    """The mean of what was counted, step by step, oldest first; the draws of the page itself are not in it."""
    with filled((10, 40), capacity=50, path=tmp_path / "a.replay") as buffer:
        sampler = rv.VisitBalanced(by=by)
        drawn = [buffer.sample(7, 1, sampler=sampler) for _ in range(30)]
    anchors = np.concatenate([batch.anchor for batch in drawn])
    counts = np.bincount(anchors, minlength=50).astype(float)
    if by == "episode":
        counts[:10], counts[10:] = counts[:10].sum(), counts[10:].sum()
    with rv.open(tmp_path / "a.replay", mode="r") as buffer:
        covered = cover(buffer, rv.VisitBalanced(by=by), 1)
    assert covered.kept == (f"visits of the {by}", counts.tolist())


def test_priorities_are_shown_as_they_are_kept(tmp_path):
    """The priorities themselves, whatever their exponent; a sampler that keeps nothing shows none."""
    with filled((10, 40), capacity=50) as buffer:
        sampler = rv.Prioritized(alpha=0.5, epsilon=0.0)
        for _ in range(40):
            batch = buffer.sample(64, 1, sampler=sampler)
            buffer.update_priorities(batch, td_errors=1.0 + batch.step_ids())
        covered = cover(buffer, sampler, 1)
        assert covered.kept[0] == "priority"
        assert np.allclose(covered.kept[1], 1.0 + np.arange(50))
        assert cover(buffer, rv.Uniform(), 1).kept is None
        buffer.report(tmp_path / "a.html", sampler=sampler)
        assert "Mean priority by age, as the sampler keeps it" in (tmp_path / "a.html").read_text()


def test_what_has_no_room_is_left_out_and_said(tmp_path):
    buffer = filled((60, 60, 60), 200)
    buffer.report(tmp_path / "a.html", max_mb=2.3)
    page = (tmp_path / "a.html").read_text()
    assert len(told_of(page)["episodes"]) < 3
    assert re.search(r"This page plays \d of 3 episodes; \d chosen ones? had no room", page)
    assert len(page.encode()) < 2.4e6


def test_an_empty_buffer_has_a_page(tmp_path):
    rv.ReplayBuffer(SPEC, 10).report(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "There is no episode." in page
    assert "There is nothing to draw." in page


def test_the_command(tmp_path, capsys, monkeypatch):
    """It names the page; the file's own name is the default; errors are one line."""
    monkeypatch.chdir(tmp_path)
    filled(path=tmp_path / "a.replay").close()
    assert main(["report", "a.replay"]) == 0
    assert capsys.readouterr().out.startswith("wrote a.replay.html, ")
    assert main(["report", "a.replay"]) == 2
    assert "wanted a path that is free" in capsys.readouterr().err
    assert main(["report", "a.replay", "--episodes", "9", "-o", "b.html"]) == 2
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"max_mb": 0}, "max_mb"), ({"length": 0}, "length"), ({"episodes": [1.5]}, "episodes: wanted whole numbers"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_what_is_refused(given, message, tmp_path):
    with pytest.raises(rv.BadSetting, match=message):
        filled().report(tmp_path / "a.html", **given)
    with pytest.raises(rv.BadSetting, match="wanted a ReplayBuffer or the path"):
        report(5, tmp_path / "a.html")

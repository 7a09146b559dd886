"""What notebooks show: exact frames, escaped names, and nothing that changes what is drawn next."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

import reverie as rv
import reverie.report.notebook

SPEC = rv.StepSpec(
    {"camera": rv.Field((3, 16, 12), "uint8"), "x": rv.Field((), "float32")}, rv.Field((2,), "float32")
)


def frame(number):
    return np.random.default_rng(number).integers(0, 256, (3, 16, 12), np.uint8)


def filled(steps=40, **settings):
    buffer = rv.ReplayBuffer(SPEC, 100, seed=0, **settings)
    for step in range(steps):
        buffer.add(obs={"camera": frame(step), "x": step}, action=np.full(2, step / 2, np.float32), reward=float(step),
                   terminated=step % 10 == 9, truncated=False, final_obs={"camera": frame(step + 1), "x": 0.0} if step % 10 == 9 else None)  # fmt: skip
    return buffer


def pictures(html):
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    ]


@pytest.mark.parametrize("residency", ["ram", "packed", "disk"])
def test_a_buffer_shows_its_newest_frames(residency, tmp_path):
    """Counts, fields, at most eight frames pixel for pixel; and the next batch is the one that would have come."""
    path = tmp_path / "<b>.replay" if residency == "disk" else None
    buffer, twin = filled(residency=residency, path=path), filled()
    html = buffer._repr_html_()
    assert "40 of 100, 1 stream" in html
    assert "4 terminated" in html
    assert "180.00 of 4 ended episodes" not in html
    assert "195.00 of 4 ended episodes" in html
    assert "<b>" not in html.replace("<strong>", "")
    found = pictures(html)
    numbers = list(map(int, re.findall(r"step (\d+)<", html)))
    assert len(found) == len(numbers) == 8
    assert numbers[-1] == 39
    for number, picture in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(picture, np.moveaxis(frame(number), 0, -1))
    assert len(html) < 60_000
    np.testing.assert_array_equal(buffer.sample(9, 3).anchor, twin.sample(9, 3).anchor)


def test_an_empty_and_a_closed_buffer_show_what_they_are(tmp_path):
    assert "0 of 100" in filled(0)._repr_html_()
    buffer = filled(5, path=tmp_path / "a.replay")
    buffer.close()
    assert "closed" in buffer._repr_html_()


@pytest.mark.parametrize("boundary", ["inside", "cross", "pad_both"])
def test_a_row_of_a_batch(boundary):
    """A line for each position with id, reward, flags and action; the frames of that row and no other."""
    batch = filled().sample(4, 6, boundary=boundary)
    row = batch.show(2)
    lines = repr(row).splitlines()
    assert lines[0] == f"row 2 of {type(batch).__name__}"
    assert lines[1].split() == ["step", "reward", "action"]
    assert len(lines) == 2 + 6
    found = pictures(row._repr_html_())
    for place, picture in enumerate(found):
        np.testing.assert_array_equal(picture, np.moveaxis(batch.obs["camera"][2, place], 0, -1))
    assert "(4, " in batch._repr_html_()
    assert len(pictures(batch._repr_html_())) == len(found)


def test_steps_tensors_and_chosen_fields_are_shown_too():
    buffer = filled()
    assert len(repr(buffer.sample_steps(3).show(-1)).splitlines()) == 3
    assert "obs/camera" in buffer.sample_steps(3)._repr_html_()
    batch = buffer.sample(2, 3)
    assert repr(batch.torch().show(1)) == repr(batch.show(1))
    assert pictures(batch.torch()._repr_html_())
    assert not pictures(buffer.sample(2, 3, fields=("reward",))._repr_html_())
    assert repr(buffer.sample(2, 3, fields=()).show()).startswith("row 0 of SequenceBatch")


@pytest.mark.parametrize("row", [2, -3, 0.5, "0"])
def test_rows_that_are_not_there(row):
    with pytest.raises(rv.BadSetting, match=r"row: wanted one of -2\.\.1, got"):
        filled().sample(2, 3).show(row)


def test_without_pillow_there_are_no_frames(monkeypatch):
    monkeypatch.setattr(reverie.report.notebook, "find_spec", lambda name: None)
    html = filled()._repr_html_()
    assert "40 of 100" in html
    assert not pictures(html)

"""The demonstration and its pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from reverie import BadSetting
from reverie.iris.app.comparison import DREAM
from reverie.iris.app.demo import run_demo
from reverie.iris.app.dreams import DIFFERENCE, IMAGINED, REAL, RECONSTRUCTED
from reverie.iris.app.pictures import draw_strip


def test_the_demonstration_leaves_three_pictures(tmp_path: Path) -> None:
    """It records, trains, dreams on a game that it did not train on, measures that, and says what it made."""
    screen = io.StringIO()
    result = run_demo(tmp_path / "out", steps=200, held_out_steps=200, tokenizer_steps=4, world_model_steps=2,
                      console=Console(file=screen, width=200))  # fmt: skip
    assert [path.name for path in result.files] == ["losses.png", "dream.png", "dream.gif"]
    assert len(result.tokenizer.losses["total"]) == 4
    assert len(result.world_model.losses["total"]) == 2
    assert list(result.dream.rows) == [REAL, RECONSTRUCTED, IMAGINED, DIFFERENCE]
    real, reconstructed, imagined, _ = result.dream.rows.values()
    assert real.shape == reconstructed.shape == imagined.shape == (11, 3, 64, 64)
    assert len(np.unique(real[0])) > 10  # Breakout has its wall, its grey sides and its score
    assert (real[0] != real[10]).any()
    assert np.array_equal(reconstructed[0], imagined[0])  # the dream begins where the tokenizer saw it
    assert result.comparison.windows >= 100
    assert set(result.comparison.there) == {"ball", "paddle"}
    assert all(series.shape == (10,) for series in result.comparison.wrong.values())
    with Image.open(result.files[1]) as strip:
        assert strip.width > 3 * 64 * 6
        assert len(strip.convert("RGB").getcolors(1 << 20) or ()) > 50
    with Image.open(result.files[2]) as animation:
        assert animation.n_frames == 11  # type: ignore[attr-defined]
    with Image.open(result.files[0]) as losses:
        assert losses.width > 800
    told = screen.getvalue()
    for path in result.files:
        assert str(path) in told
    assert "tokenizer        4 of 4" in told  # a file gets lines, too
    assert "does NOT beat both guesses" in told  # after so little training


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_dream_obeys(tmp_path: Path, seed: int) -> None:
    """As it comes, the demonstration's dream beats both guesses at every step, in pixels and in where things are."""
    found = run_demo(tmp_path, seed=seed, console=Console(file=io.StringIO())).comparison
    for measure in (found.wrong, found.distance, found.off["paddle"], found.off["ball"]):
        assert found.worse_at(measure) == []
    assert (found.there["paddle"][DREAM] > 0.95).all()
    assert (found.there["ball"][DREAM] > 0.6).all()


def test_a_strip_shows_every_pixel_as_a_square(tmp_path: Path) -> None:
    """Enlarged frames keep their colours exactly; rows follow in order, columns skip steps."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    rows = {"one": frames, "two": 255 - frames}
    draw_strip(tmp_path / "strip.png", rows, every=2, scale=4)
    with Image.open(tmp_path / "strip.png") as image:
        shown = np.asarray(image)
    for row, wanted in enumerate(rows.values()):
        for column, step in enumerate((0, 2)):
            y, x = 24 + row * 38, 150 + column * 38
            enlarged = wanted[step].transpose(1, 2, 0).repeat(4, 0).repeat(4, 1)
            assert np.array_equal(shown[y : y + 32, x : x + 32], enlarged)


def test_captions_stand_under_the_steps(tmp_path: Path) -> None:
    """Captions make room for themselves; without any the picture is as high as its rows."""
    frames = np.zeros((4, 3, 8, 8), np.uint8)
    for captions, height in (((), 62), (("left", "right\nreward 1"), 110)):
        draw_strip(tmp_path / "strip.png", {"one": frames}, every=2, scale=4, captions=captions)
        with Image.open(tmp_path / "strip.png") as image:
            assert image.height == height


def test_rows_of_unequal_length_are_refused(tmp_path: Path) -> None:
    """Nothing is drawn from rows that do not show the same steps."""
    frames = np.zeros((4, 3, 8, 8), np.uint8)
    with pytest.raises(BadSetting, match="cut them to the same steps"):
        draw_strip(tmp_path / "strip.png", {"one": frames, "two": frames[1:]})

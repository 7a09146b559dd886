"""A report in a browser: Chromium loads it alone, shows the right pixels, sorts, filters, and is reached by keys.

`REVERIE_CHROMIUM` names the browser; without it these tests look for Debian's.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import reverie as rv

BROWSER = os.environ.get("REVERIE_CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--disable-quic"]  # fmt: skip
SPEC = rv.StepSpec(
    {"camera": rv.Field((3, 16, 12), "uint8"), "arm": rv.Field((3,), "float32")}, rv.Field((), "int64")
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not Path(BROWSER).exists(), reason="wanted Chromium: apt-get install chromium, or REVERIE_CHROMIUM"
    ),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="wanted Playwright: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """A function that opens a page and waits until it is ready; it must ask for nothing and complain of nothing."""
    contexts, wrong = [], []

    def open_page(path, fragment="", width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda line: (
                wrong.append(line.text)
                if line.type in ("error", "warning") and "willRead" not in line.text
                else None
            ),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith(("data:", "blob:", f"file://{path}"))
                else wrong.append(asked.url)
            ),
        )
        page.goto(f"file://{path}{fragment}")
        page.wait_for_function("document.body.dataset.ready === 'yes'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def frame(number):
    return np.random.default_rng(number).integers(0, 256, (3, 16, 12), np.uint8)


def filled(episodes, length=7, **settings):
    buffer = rv.ReplayBuffer(SPEC, max(episodes * length, 8), seed=0, **settings)
    for episode in range(episodes):
        for step in range(length):
            ends = step == length - 1
            end = (
                {"camera": frame(10_000 * episode + length), "arm": np.zeros(3, np.float32)} if ends else None
            )
            buffer.add(
                obs={"camera": frame(10_000 * episode + step), "arm": np.full(3, step, np.float32)}, action=step, reward=float(episode),
                terminated=ends and episode % 2 == 0, truncated=ends and episode % 2 == 1, final_obs=end,
            )  # fmt: skip
        buffer.annotate(
            episode=int(buffer.episodes.ids[-1]),
            task=f"<img src=x onerror=alert(1)> {'reach' if episode % 3 else 'push'}",
        )
    return buffer


def pixels(page):
    """The frame that is on the canvas, (height, width, 3)."""
    found = page.evaluate("""() => { const canvas = document.querySelector('#frames canvas');
        return [canvas.height, canvas.width, Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)]; }""")
    return np.array(found[2], np.uint8).reshape(found[0], found[1], 4)[..., :3]


def shown(page, episode, step):
    page.wait_for_function(f"document.querySelector('#frames canvas').dataset.shown === '{episode}/{step}'")
    return pixels(page)


def test_an_episode_by_its_address_step_by_step(opened, tmp_path):
    """The fragment opens it; keys, buttons and the slider step; each frame is that of the step, the final one too."""
    filled(6).report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html", "#episode=3")
    assert page.text_content("#which").startswith("Episode 3: stream 0, 7 steps")
    np.testing.assert_array_equal(shown(page, 3, 0), np.moveaxis(frame(30_000), 0, -1))
    page.keyboard.press("ArrowRight")
    np.testing.assert_array_equal(shown(page, 3, 1), np.moveaxis(frame(30_001), 0, -1))
    page.click("#on")
    np.testing.assert_array_equal(shown(page, 3, 2), np.moveaxis(frame(30_002), 0, -1))
    assert "step 2 of 7 (id 23), reward 3, return so far 9" in page.text_content("#where")
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('head:reward').location") == 2
    page.keyboard.press("End")
    np.testing.assert_array_equal(shown(page, 3, 7), np.moveaxis(frame(30_007), 0, -1))
    assert page.text_content("#where") == "final observation, truncated; return 21.00"
    page.fill("#scrub", "4")
    np.testing.assert_array_equal(shown(page, 3, 4), np.moveaxis(frame(30_004), 0, -1))
    page.evaluate("location.hash = 'episode=5'")
    np.testing.assert_array_equal(shown(page, 5, 0), np.moveaxis(frame(50_000), 0, -1))
    assert "<img src=x" in page.text_content("#metadata")


def test_it_plays(opened, tmp_path):
    """Up to the end, where it stops by itself."""
    filled(1).report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html")
    page.select_option("#speed", "60")
    page.click("#play")
    shown(page, 0, 7)
    page.wait_for_function("document.getElementById('play').textContent === 'Play'")


def test_it_sorts_filters_and_opens_by_a_click(opened, tmp_path):
    """By text of the metadata, by ending, and by length; a row opens its episode."""
    filled(6).report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html")
    page.locator("input[type=text]").first.fill("push")
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('count').text === '2 of 6 episodes'")
    page.locator("input[type=text]").first.fill("")
    page.locator("select:not(#speed)").select_option("truncated")
    page.wait_for_function("Bokeh.documents[0].get_model_by_name('count').text === '3 of 6 episodes'")
    page.locator("select:not(#speed)").select_option("all")
    page.locator(".slick-header-column", has_text="return").click()
    page.locator(".slick-header-column", has_text="return").click()  # from the highest on
    page.wait_for_function("""() => { const find = (root) => { for (const node of root.querySelectorAll('*')) { if (node.matches('.slick-row .slick-cell'))
        return node; if (node.shadowRoot) { const found = find(node.shadowRoot); if (found) return found; } } return null; };
        const cell = find(document); return cell && cell.textContent.trim() === '5'; }""")
    page.locator(".slick-row .slick-cell").first.click()
    page.wait_for_function("location.hash === '#episode=5'")
    assert page.text_content("#which").startswith("Episode 5")


@pytest.mark.parametrize("episodes", [0, 1, 5000])
def test_any_number_of_episodes(episodes, opened, tmp_path):
    filled(episodes, length=2).report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    if episodes:
        assert (
            page.evaluate("Bokeh.documents[0].get_model_by_name('count').text")
            == f"{episodes:,} of {episodes:,} episodes"
        )
        page.evaluate("location.hash = 'episode=4321'")
        if episodes > 4321 and page.is_hidden("#player"):
            assert "Episode 4321 is not among those that this page plays" in page.text_content("#absent")


def test_vectors_alone(opened, tmp_path):
    """Without frames there are curves, and the keys move their playhead."""
    spec = rv.StepSpec(rv.Field((17,), "float32"), rv.Field((6,), "float32"))
    buffer = rv.ReplayBuffer(spec, 50, seed=0)
    for step in range(40):
        buffer.add(obs=np.full(17, step, np.float32), action=np.zeros(6, np.float32), reward=np.float32(step), terminated=step % 10 == 9,
                   truncated=False)  # fmt: skip
    buffer.report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html", "#episode=1")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('head:obs').location") == 1
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('curves:action').data.name.length") == 6
    assert page.evaluate("Bokeh.documents[0].get_model_by_name('image:obs').data.image[0].shape") == [17, 10]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light"), (390, "dark")])
def test_it_fits_and_is_named(width, scheme, opened, tmp_path):
    """Nothing is wider than the window, and every control has a name for those who do not see it."""
    filled(3).report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")
    assert (sum(map(int, ink[4:-1].split(","))) > 500) == (scheme == "dark")
    for control in page.locator("#player button, #player input, #player select").all():
        assert control.evaluate(
            "(one) => one.getAttribute('aria-label') || one.textContent || one.labels.length > 0"
        )


ON_PAPER = """() => {
  const all = (root) => [...root.querySelectorAll('*')].flatMap((one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])]);
  const seen = (one) => one.checkVisibility() && one.getBoundingClientRect().height > 0;
  const light = (one) => getComputedStyle(one).backgroundColor.match(/[\\d.]+/g).map(Number);
  const named = (...names) => all(document).filter((one) => names.some((name) => one.matches(name)));
  return {controls: named('nav', 'button', 'input', 'select', '.bk-toolbar-button', '.bk-tool-icon').filter(seen).length,
    plots: named('canvas').filter(seen).length, paper: light(document.body), ink: getComputedStyle(document.body).color,
    cells: named('.slick-cell').filter(seen).map(light).filter(([r, g, b, a]) => a !== 0 && r + g + b < 600).length};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white_and_has_no_controls(scheme, opened, tmp_path):
    """Also for a reader whose screen is dark; the plots, the frames and the table stay."""
    filled(3).report(tmp_path / "a.html")
    page = opened(tmp_path / "a.html", scheme=scheme)
    on_screen = page.evaluate(ON_PAPER)
    assert on_screen["controls"] > 5
    assert (on_screen["cells"] > 0) == (scheme == "dark")
    page.emulate_media(media="print", color_scheme=scheme)
    page.wait_for_function(f"({ON_PAPER})().controls === 0")
    on_paper = page.evaluate(ON_PAPER)
    assert on_paper["paper"][:3] == [255, 255, 255]
    assert on_paper["ink"] == "rgb(27, 31, 36)"
    assert on_paper["cells"] == 0
    assert on_paper["plots"] == on_screen["plots"] > 4
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")

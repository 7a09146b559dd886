"""The README tells the truth about itself: its examples run, its commands and files exist, its promises have proofs."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import reverie as rv

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAP = re.search(r"```\nsrc/reverie/\n(.*?)```", README, re.DOTALL)
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PROMISES = re.findall(r"^(\d+\. )\*\*(.+?)\*\*", README, re.MULTILINE)
PROOFS = (ROOT / "docs/promises.md").read_text()
DESIGN = (ROOT / "docs/design.md").read_text()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_example_runs(number, monkeypatch, tmp_path):
    """Every Python block of the README runs by itself, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), {"__name__": "example"})


def test_there_are_examples():
    """The pattern above finds the block; the other pages have theirs."""
    assert len(EXAMPLES) >= 1


def on_the_map():
    """Return the names on each line of the map: what stands before its description."""
    return [re.findall(r"(\w+)(?:\.py|/)", line.strip().split("  ")[0]) for line in MAP[1].splitlines()]


def test_every_named_file_exists():
    """Files that README, CONTRIBUTING and the design name are there, in the repository or in the package."""
    names = set()
    for page in (README, DESIGN, (ROOT / "CONTRIBUTING.md").read_text()):
        names |= set(re.findall(r"`([\w/.]+(?:\.py|\.md|\.toml|/))`", page))
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "src/reverie" / name).exists(), name


def imported(path):
    """Yield the modules of reverie that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reverie."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "reverie":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("reverie."))


def test_the_map_names_every_room_before_those_that_it_imports():
    """Each room stands on the map once, and imports what stands on its line or below it."""
    package = ROOT / "src/reverie"
    lines = on_the_map()
    named = [name for names in lines for name in names]
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert sorted(named) == sorted(modules | packages)
    line_of = {name: number for number, names in enumerate(lines) for name in names}
    for name, line in line_of.items():
        for path in [package / f"{name}.py"] if name in modules else (package / name).rglob("*.py"):
            for other in imported(path):
                assert line_of.get(other, line) >= line, f"{name} stands below {other}, which it imports"


def table(page):
    """Return the cells of each row of the one table of a page, its header left out."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return rows[2:]


def proofs(cell):
    """Yield the file and the name of each test in a cell; a name alone belongs to the file before it."""
    path = ""
    for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", cell):
        path = file or path
        if name:
            yield path, name


def runs_in_make_test(path, name):
    """Whether a test is there, and no mark of it or of its file leaves it out of `make test`, ever."""
    tree = ast.parse((ROOT / path).read_text())
    found = None
    marks = ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            found = node
            marks += "".join(
                ast.unparse(mark) for mark in node.decorator_list if "param" not in ast.unparse(mark)
            )
        elif isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
            found = node if name in names else found  # a state machine of Hypothesis is assigned
            marks += ast.unparse(node.value) if "pytestmark" in names else ""
    assert found is not None, f"{path} has no {name}"
    return "slow" not in marks and "skip" not in marks


def test_every_promise_has_a_row_and_a_proof():
    """Each promise, by number and words, has code that is there, and a test that runs always."""
    rows = table(PROOFS)
    assert [row[0] for row in rows] == [number + words for number, words in PROMISES]
    assert len(PROMISES) == 10
    for promise, code, proof in rows:
        files = re.findall(r"`([\w/]+(?:\.py|/))`", code)
        assert files, promise
        for file in files:
            assert (ROOT / "src/reverie" / file).exists(), file
        always = [runs_in_make_test(path, name) for path, name in proofs(proof)]
        assert any(always), promise
        assert len(always) == proof.count("`tests/") + proof.count("`::"), "a proof names a test"
    bounds = (ROOT / "benchmarks/__main__.py").read_text()
    for name in re.findall(r"`python -m benchmarks (\w+)`", PROOFS):
        assert f'"{name}": (' in bounds, name


def test_a_proof_that_is_not_there_is_noticed():
    """A test that is gone is missed; one that is slow is no proof by itself."""
    with pytest.raises(AssertionError, match="has no test_of_nothing"):
        runs_in_make_test("tests/words/test_imports.py", "test_of_nothing")
    kill = "tests/file/durability/test_kill.py"
    assert not runs_in_make_test(kill, "test_killed_writers_leave_all_that_was_promised")
    assert runs_in_make_test(kill, "test_a_killed_writer_leaves_all_that_was_promised")


def way(task):
    """Return the functions of reverie that a task calls, in their order: name and file."""
    package = str(ROOT / "src/reverie")
    called = []

    def hook(frame, event, _argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package):
            called.append((code.co_qualname, str(Path(code.co_filename).relative_to(package))))

    sys.setprofile(hook)
    try:
        task()
    finally:
        sys.setprofile(None)
    return called


def test_the_ways_are_those_that_are_taken(tmp_path):
    """An `add` to a file, and a `sample`, call what the two pictures in docs/design.md show, in this order."""
    spec = rv.StepSpec(rv.Field((3,), "uint8"), rv.Field((), "int64"))
    buffer = rv.ReplayBuffer(spec, 64, seed=0, path=tmp_path / "a.replay")
    zero = np.zeros(3, np.uint8)

    def add(ends=False):
        buffer.add(
            obs=zero, action=0, reward=0.0, terminated=ends, truncated=False, final_obs=zero if ends else None
        )

    for step in range(105):  # a full ring, in the middle of an episode
        add(step % 10 == 9)
    ways = [way(add), way(lambda: buffer.sample(32, 8, boundary="pad_right"))]
    buffer.close()
    pictures = re.findall(r"```text\n(.*?)```", DESIGN, re.DOTALL)
    for picture, called in zip(pictures, ways, strict=True):
        drawn = [tuple(line.split()[:2]) for line in picture.splitlines()]
        assert 5 <= len(drawn) <= 10
        rest = iter(called)
        for step in drawn:
            assert step in rest, f"{step} is not called, or not in this place"


def test_every_room_has_a_row():
    """Whoever wants to change a room finds it in the table of CONTRIBUTING, beside tests that are there."""
    rows = table((ROOT / "CONTRIBUTING.md").read_text())
    named = {name for row in rows for name in re.findall(r"`(\w+)/`", row[1])}
    assert {path.parent.name for path in (ROOT / "src/reverie").glob("*/__init__.py")} <= named
    assert all("`tests/" in row[2] or "`make " in row[2] for row in rows)


PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def anchors(page):
    """Return the names by which headings of a page are linked: lower case, hyphens for spaces, no punctuation."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_what_is_there(page):
    """Every link to a page, a picture or a heading of this repository has its target."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target:
            name, _, heading = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not heading or heading in anchors(file), target


def test_every_make_target_exists():
    """Commands that the README and CONTRIBUTING name are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"`?\bmake (\w+)", (ROOT / page).read_text()):
            if f"`make {target}" in (ROOT / page).read_text():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

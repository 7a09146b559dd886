"""docs/command-line.md: its commands print what the page shows, and nothing that there is is left out."""

import re
import shlex
from pathlib import Path

import pytest

from reverie.cli.main import COMMANDS, INTERRUPTED, USER_ERROR, main

PAGE = (Path(__file__).parents[2] / "docs/command-line.md").read_text()
SHOWN = [
    (command, shown)
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for command, shown in re.findall(r"^\$ reverie (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]
SCRIPTS = re.findall(
    r"^reverie (\w+) ?([^|>\n#]*)", "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)), re.MULTILINE
)


def plain(text):
    """Return text without what differs between machines: times, sizes on disk, and how wide a table is for them."""
    text = re.sub(r"[\d,]+\.\d s \([\d,]+ steps/s\)", "TIME", text)
    text = re.sub(r"[\d.]+ (B|kB|MB)\b", "SIZE", text)
    text = re.sub(r"[\d.]+x$", "TIMES", text, flags=re.MULTILINE)
    return re.sub(" +", " ", text)


def test_the_page_shows_what_is_printed(tmp_path, monkeypatch, capsys):
    """Every command with a prompt, in the order of the page and in an empty directory."""
    monkeypatch.chdir(tmp_path)
    assert len(SHOWN) > 10
    for command, shown in SHOWN:
        status = main(shlex.split(command))
        printed = capsys.readouterr()
        assert plain(printed.out + printed.err) == plain(shown), command
        assert status == (USER_ERROR if shown.startswith("reverie: ") else 0), command


def test_a_page_that_is_wrong_is_noticed():
    """Only times and sizes may differ."""
    assert plain("in 0.2 s (8,690 steps/s), 1.23 kB  5.5x") == plain("in 1.9 s (86 steps/s), 12.30 MB 6.1x")
    assert plain("80 ended, mean return 25.00") != plain("81 ended, mean return 25.00")


@pytest.mark.parametrize(("command", "rest"), SCRIPTS)
def test_the_options_exist(command, rest, capsys):
    """Commands without a prompt are not run, but their options are in the help."""
    assert command in COMMANDS
    assert main([command, "--help"]) == 0
    told = capsys.readouterr().out
    for option in re.findall(r"(?<!\S)--?[a-z-]+", rest):
        assert re.search(rf"(?<![\w-]){option}\b", told), option


def test_nothing_is_left_out():
    """Every command has a row and an example; every exit status has a row."""
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(COMMANDS)
    examples = {command.split()[0] for command, _ in SHOWN} | {command for command, _ in SCRIPTS}
    assert examples == set(COMMANDS)
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == ["0", "1", str(USER_ERROR), str(INTERRUPTED)]

"""What the site does to pages that also stand alone in the repository.

The README is its first page, and the CHANGELOG one of its pages. A link to a file that is on no page, such as a module,
becomes the name of that file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changes.md"}  # file of the repository -> page
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside of the folder."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links lead to pages of the site, and name the files that have none."""
    here = posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join("docs", here, target))
        if path in PAGES:
            return f"[{text}]({posixpath.relpath(PAGES[path], here or '.')}{anchor})"
        inside = posixpath.normpath(posixpath.join(here, target))
        if path.startswith("docs/") and files.get_file_from_path(inside) is not None:
            return match[0]
        if (ROOT / path).exists() or (ROOT / inside).exists():  # the README's own links begin at the root
            return text
        return match[0]

    return LINK.sub(lead, markdown)

"""What the build of the site (scripts/site.yml) does beside mkdocs: pages are written to be read in the repository, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

#: Pages that are being written beside these: until they are there the menu leaves them out, and a link to one is its text.
EXPECTED = ("ecosystem.md", "staging.md")

_FENCE_WORDS = re.compile(r"^(```\w+) .*$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Leave out of the menu what is expected and not there."""
    missing = missing_pages(Path(config.docs_dir))
    for section in config.nav:
        if isinstance(section, dict):
            for pages in section.values():
                pages[:] = [page for page in pages if page not in missing]
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Take away what stands behind the language of a code block (it is for the tests), and links to pages that are not there yet."""
    markdown = _FENCE_WORDS.sub(r"\1", markdown)
    for missing in missing_pages(Path(config.docs_dir)):
        markdown = re.sub(rf"\[([^\]]+)\]\({re.escape(missing)}(#[^)]*)?\)", r"\1", markdown)
    return markdown


def missing_pages(folder: Path) -> list[str]:
    """Which of the expected pages are not there."""
    return [page for page in EXPECTED if not (folder / page).exists()]

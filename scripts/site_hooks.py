"""What the build of the site (scripts/site.yml) does beside mkdocs: pages are written to be read in the repository, too."""

from __future__ import annotations

import re
from typing import Any

_FENCE_WORDS = re.compile(r"^(```\w+) .*$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Take away what stands behind the language of a code block: it is for the tests."""
    return _FENCE_WORDS.sub(r"\1", markdown)

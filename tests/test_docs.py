"""The documents: every command is in the README, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from artifactmount.cli import COMMANDS
from artifactmount.log_lines import FIELDS
from artifactmount.mount_options import OPTIONS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "artifactmount/docs").glob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def heading_anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = _FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"\bartifactmount {command}\b", (ROOT / "README.md").read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    broken: list[str] = []
    for link in _LINK.findall(_FENCE.sub("", document.read_text())):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in heading_anchors(target)):
            broken.append(link)
    assert broken == []


def test_no_document_names_a_file_of_the_package_that_is_gone() -> None:
    for document in DOCUMENTS:
        for path in re.findall(r"`((?:artifactmount|scripts|tests)/[\w./-]+)`", document.read_text()):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_every_mount_option_and_log_field_is_documented() -> None:
    page = (ROOT / "artifactmount/docs/machines.md").read_text()
    for name in (*OPTIONS, *FIELDS):
        assert re.search(rf"`{name}[=`]", page), name

"""The documents make a site: each page is in its menu, each link in them leads somewhere, each command and name is in the references."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from artifactmount import __all__ as names
from artifactmount.cli import COMMANDS
from tests.docs.pages import FOLDER, ROOT


def test_the_site_is_built_without_a_complaint(tmp_path: Path) -> None:
    ran = subprocess.run(["bash", ROOT / "scripts/site", tmp_path], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", f"{tmp_path}/index.html\n")
    assert {page.with_suffix(".html").name for page in FOLDER.glob("*.md")} <= set(os.listdir(tmp_path))
    commands, api = (re.sub(r"<[^>]+>", "", (tmp_path / page).read_text()) for page in ("commands.html", "api.html"))
    assert all(f"artifactmount {command} [OPTIONS]" in commands for command in COMMANDS)
    assert all(re.search(rf"\b{name}\b", api) for name in names if name != "__version__")
    assert "://fonts" not in (tmp_path / "index.html").read_text()  # what a page loads comes from the site itself


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_no_link_leads_out_of_the_site(page: Path) -> None:
    assert re.findall(r"\]\((\.\.?/[^)]*|/[^)]*)\)", page.read_text()) == []

"""The documents make a site: each page is in its menu, each link in them leads somewhere, each command and name is in the references."""

from __future__ import annotations

import os
import re
import shutil
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


def test_what_is_broken_ends_the_build(tmp_path: Path) -> None:
    """In a small site of the same settings, built with the words of the script."""
    (line,) = [line for line in (ROOT / "scripts/site").read_text().splitlines() if "mkdocs build" in line]
    pages, settings = tmp_path / "artifactmount/docs", tmp_path / "scripts"
    pages.mkdir(parents=True)
    settings.mkdir()
    for name in ("site.yml", "site_hooks.py"):
        shutil.copy(ROOT / "scripts" / name, settings)
    menu = re.compile(r"^nav:.*?^$", re.MULTILINE | re.DOTALL)
    (settings / "site.yml").write_text(menu.sub("nav: [index.md]\n", (settings / "site.yml").read_text()))
    (pages / "index.md").write_text("# Index\n\n[a](nothing.md) [b](extra.md#nowhere)\n")
    (pages / "extra.md").write_text("# Extra\n")
    words = line.replace("$ROOT/scripts", str(settings)).replace("$ROOT", str(ROOT)).replace("$target", str(tmp_path / "site"))
    ran = subprocess.run(["bash", "-c", words.removeprefix("quietly ")], capture_output=True, text=True, check=False)
    warnings = re.findall(r"^WARNING .*$", ran.stderr, re.MULTILINE)
    assert ran.returncode == 1 and len([line for line in warnings if "nothing.md" in line or "#nowhere" in line]) == 2, ran.stderr
    assert "- extra.md" in ran.stderr


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_no_link_leads_out_of_the_site(page: Path) -> None:
    assert re.findall(r"\]\((\.\.?/[^)]*|/[^)]*)\)", page.read_text()) == []


def test_the_first_page_leads_to_all_others() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", (FOLDER / "index.md").read_text()))
    assert {page.name for page in FOLDER.glob("*.md")} - linked == {"index.md"}

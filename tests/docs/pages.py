"""The pages, and the fenced code blocks on them. Runs nothing.

`console` blocks are a terminal: `$ ` begins a command, `> ` goes on with it, the rest is what it prints, where `…` (or `...`) stands for
any text in its line, and alone on a line for any lines. `python` blocks are run, too; an `output` block behind one is what it prints. What
stands behind the language is for a test of its own (`python wandb`, `json open-example`). All other languages are read, not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "artifactmount/docs"
PAGES = [ROOT / "README.md", *sorted(FOLDER.glob("*.md"))]

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_ANY_LINES = ("…", "...")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block: its language, the word behind that, its text, and the page's line that its text begins on."""

    language: str
    word: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """A command as typed, the lines it is to print, and its own line on the page."""

    command: str
    expected: tuple[str, ...]
    line: int


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, from top to bottom."""
    for match in _FENCE.finditer(text):
        language, _, word = match[2].strip().partition(" ")
        indent = len(match[1])
        lines = [line[indent:] for line in match[3].splitlines()]
        yield Block(language, word, "\n".join(lines) + "\n", text.count("\n", 0, match.start()) + 2)


def steps(block: Block) -> list[Step]:
    """The commands of a console block. Raises ValueError for output that no command printed."""
    found: list[Step] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            found.append(Step(line[2:], (), number))
        elif not found:
            raise ValueError(f"line {number}: a console block begins with a command: $ …")
        elif (line == ">" or line.startswith("> ")) and not found[-1].expected:
            found[-1] = Step(f"{found[-1].command}\n{line[2:]}", (), found[-1].line)
        else:
            found[-1] = Step(found[-1].command, (*found[-1].expected, line.rstrip()), found[-1].line)
    return found


def fits(expected: tuple[str, ...], printed: list[str]) -> bool:
    """Whether this was printed, wildcards allowed."""
    pattern = ""
    for line in expected:
        if line in _ANY_LINES:
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in re.split(r"…|\.\.\.", line)) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None

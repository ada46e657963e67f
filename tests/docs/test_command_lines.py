"""Every command line of ours in the documents exists, with these options; also those that are not run. Other languages than ours parse.

Command lines stand at the beginning of a line of a code block (behind `$`, `sudo`, variables, a time of cron), behind `&&`, `|`, `;` or
`=`, as a list of words in YAML, and in `code spans`, where words in capitals and brackets stand for something.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from artifactmount import config
from artifactmount.cli import group
from tests.docs.pages import FOLDER, PAGES, Block, blocks, steps

#: What a block may be. "" is a layout: a picture made of text, with no command of ours in it.
LANGUAGES = {"", "bash", "console", "dockerfile", "fstab", "hex", "ini", "json", "output", "python", "toml", "yaml"}

_BEFORE = r"(?:(?:sudo|exec|time|env|[A-Z_]+=\S*|[\d*/,-]+(?: [\d*/,-]+){4}) +)*(?:\S*/)?"
_COMMAND = re.compile(rf"(?:^|[|;=(]|&& |\|\| )\s*(?:\$ )?{_BEFORE}artifactmount +([^\n|;&)]*)", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def complaint(words: list[str]) -> str | None:
    """What is wrong with the words behind `artifactmount`; None where the program would take them, whatever values stand for something."""
    command: click.Command = group
    pending = list(words)
    with click.Context(group) as context:
        while pending:
            word = pending.pop(0)
            if word == "--":
                return None
            if word.startswith("-") and word != "-":
                name, equals, _ = word.partition("=")
                option = options(command).get(name)
                if option is None:
                    return f"{command.name} has no option {name}"
                if not option.is_flag and not equals:
                    if not pending:
                        return f"{name} of {command.name} takes a value"
                    pending.pop(0)
            elif isinstance(command, click.Group):
                found = command.get_command(context, word)
                if found is None:
                    return f"no command {word}"
                command = found
    return None


def options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command, under each of their names."""
    found = {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts + option.secondary_opts}
    helping = click.Option(["-h", "--help"], is_flag=True)
    return {**found, "--help": helping, "-h": helping}


def every_command(command: click.Command = group) -> Iterator[click.Command]:
    """All commands, and those below them."""
    yield command
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from every_command(below)


def lines_of(block: Block) -> list[list[str]]:
    """The words behind `artifactmount` in each command line of a block."""
    if block.language == "yaml":
        return [words for document in yaml.safe_load_all(block.text) for words in _in_yaml(document)]
    text = "\n".join(step.command for step in steps(block)) if block.language == "console" else block.text
    text = re.sub(r"\s*\\\n\s*", " ", text)
    return [_words(match[1]) for match in _COMMAND.finditer(text)]


def _in_yaml(value: Any) -> Iterator[list[str]]:
    """A list of words is a command line, and so is a line of a text."""
    if isinstance(value, list) and value and isinstance(value[0], str) and value[0].rpartition("/")[2] == "artifactmount":
        yield [str(word) for word in value[1:]]
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from _in_yaml(below)
    elif isinstance(value, str):
        yield from (_words(match[1]) for match in _COMMAND.finditer(value))


def _words(text: str) -> list[str]:
    """As a shell takes them apart, without redirections; at blanks where a quote is the end of a longer text."""
    lexer = shlex.shlex(re.sub(r"\s\d?>+ *\S+", "", text), posix=True, punctuation_chars="")
    lexer.whitespace_split, lexer.commenters = True, "#"
    try:
        return list(lexer)
    except ValueError:
        return text.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_in_a_block_exists(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language not in ("python", "output", "json", "hex"):
            for words in lines_of(block):
                assert block.language, f"{page.name}:{block.line}: say what this block is: console (it is run), or bash (it is not)"
                assert complaint(words) is None, f"{page.name}:{block.line}: {' '.join(words)}: {complaint(words)}"


def unknown_options(name: str, text: str) -> set[str]:
    """The options in a text about a command that neither it has nor a command below it. Raises AssertionError where it is no command."""
    with click.Context(group) as context:
        command = group.get_command(context, name)
    assert command is not None, f"no command {name}: {text}"
    return set(_OPTION.findall(text)) - {option for one in (group, *every_command(command)) for option in options(one)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_in_a_span_exists(page: Path) -> None:
    known = {option for command in every_command() for option in options(command)}
    for span in _SPAN.findall(re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        if match := re.match(r"artifactmount ([a-z][a-z-]*)(?=[^\w:/]|$)", span):
            assert not unknown_options(match[1], span), f"{page.name}: {span}"
        elif span.startswith("--"):
            assert set(_OPTION.findall(span)) <= known, f"{page.name}: no command has {span}"


def test_each_row_of_the_readme_s_table_names_options_of_its_command() -> None:
    rows = re.findall(r"^\| `artifactmount ([a-z-]+)(.*)$", PAGES[0].read_text(), re.MULTILINE)
    assert len(rows) >= 19
    for name, rest in rows:
        assert not unknown_options(name, rest), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_parses(page: Path, tmp_path: Path) -> None:
    for block in blocks(page.read_text()):
        where = f"{page.name}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: {block.language} is none of {sorted(LANGUAGES)}"
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert [document for document in yaml.safe_load_all(block.text) if document is not None], where
        elif block.language == "toml":
            tomllib.loads(block.text)
            file = tmp_path / "artifactmount/config.toml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text)
            os.chmod(file, 0o600)
            config.read_config({"XDG_CONFIG_HOME": str(tmp_path)})
        elif block.language == "python":
            compile(block.text, where, "exec", dont_inherit=True)


def test_every_variable_and_word_of_the_config_file_is_in_the_settings() -> None:
    page = (FOLDER / "settings.md").read_text()
    used = {name for file in FOLDER.parent.rglob("*.py") for name in re.findall(r"\bARTIFACTMOUNT_[A-Z_]+\b", file.read_text())}
    assert used == set(re.findall(r"^\| `(ARTIFACTMOUNT_[A-Z_]+)`", page, re.MULTILINE))
    (example,) = [block for block in blocks(page) if block.language == "toml"]
    assert tomllib.loads(example.text).keys() == config._WORDS


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("snapshot . animals --alias best --note 'a b'", None),
        ("--project s3://b/p --cache-size=1G ls -l animals", None),
        ("key add --label ann --passphrase", None),
        ("sweep animals", "no command sweep"),
        ("key make", "no command make"),
        ("ls --long", "ls has no option --long"),
        ("--long ls", "group has no option --long"),
        ("gc animals --grace", "--grace of gc takes a value"),
    ],
)
def test_what_does_not_exist_is_found(line: str, wrong: str | None) -> None:
    assert complaint(shlex.split(line)) == wrong


def test_command_lines_are_found_wherever_they_stand() -> None:
    text = "$ A=1 artifactmount ls # all\n$ true && artifactmount gc > log\n> x\nartifactmount: no\n"
    assert lines_of(Block("console", "", text, 1)) == [["ls"], ["gc"]]
    text = "sudo artifactmount mount /mnt \\\n   --umask 027\n# artifactmount is\npip -U artifactmount a\n*/5 4 * * *  artifactmount gc\n"
    assert lines_of(Block("bash", "", text, 1)) == [["mount", "/mnt", "--umask", "027"], ["gc"]]
    assert lines_of(Block("ini", "", "ExecStart=/usr/bin/artifactmount mount --lazy /mnt\n", 1)) == [["mount", "--lazy", "/mnt"]]
    text = 'a:\n  - command: ["artifactmount", "mount", "/mnt"]\n    args: ["-c", "artifactmount ls && artifactmount du"]\n'
    assert lines_of(Block("yaml", "", text, 1)) == [["mount", "/mnt"], ["ls"], ["du"]]

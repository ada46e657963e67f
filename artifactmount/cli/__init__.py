"""The command line: which command lives where, and what errors look like. `--help` imports nothing but click.

Each command is a module of this package that is imported when it is used. Errors are one line on stderr and an exit code
(README, "Exit codes"); with ARTIFACTMOUNT_DEBUG=1 the traceback, too.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from artifactmount.version import __version__

#: command -> module of this package, and the line that `--help` shows (the first of the command's own help; a test compares)
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Create the project."),
    "key": ("key", "Manage the keys of an encrypted project."),
    "snapshot": ("snapshot", "Make a folder the next version of an artifact."),
    "checkout": ("checkout", "Make a writable folder of a version."),
    "status": ("status", "Show what was changed in a checkout."),
    "add-reference": ("add_reference", "Add what lies elsewhere to an artifact, without its bytes."),
    "vendor": ("vendor", "Make a version whose references became files of its own."),
    "import-wandb": ("import_wandb", "Make an artifact of W&B that lies on this machine a version."),
    "mount": ("mount", "Show every version of every artifact as read-only folders."),
    "umount": ("mount", "Unmount."),
    "ls": ("ls", "List artifacts, versions, or the files of a version."),
    "log": ("log", "Show who did what when."),
    "diff": ("diff", "Show what differs between two versions."),
    "alias": ("alias", "Point aliases to a version, or remove them."),
    "du": ("du", "Show what versions cost."),
    "delete": ("delete", "Delete versions, and every byte that no other version uses."),
    "expire": ("expire", "Delete old versions by a rule."),
    "gc": ("gc", "Delete what dead writers left."),
    "show": ("show", "Show everything known of a version, or of the project."),
    "download": ("download", "Copy a version, or a part of it, to real files."),
    "prefetch": ("prefetch", "Bring a version into the cache before it is read."),
    "cache": ("cache", "Show what the cache holds, or clear it."),
    "verify": ("verify", "Read every byte and say what is wrong."),
    "policy": ("policy", "Print the IAM policy that a user of the project needs."),
    "doctor": ("doctor", "Look for what is wrong with this machine and the project, and say how to mend it."),
    "completion": ("completion", "Print what makes a shell complete commands, options and artifacts."),
    "example": ("example", "Print a file to begin with: a systemd unit, a line of fstab, a container, a pod."),
}

#: The variable by which a shell asks for words; its name is of click's making.
SHELL_ASKS = "_ARTIFACTMOUNT_COMPLETE"
_INTERRUPTED = 130
_PIPE_CLOSED = 141
_INTERNAL = 70


class _PipeClosedError(Exception):
    """Whoever read along has seen enough."""


class _Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        if SHELL_ASKS in os.environ:
            from artifactmount.cli.completion import complete_artifacts

            complete_artifacts(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Left to click, each command would be imported for its line of help: 0.4 s for each press of the key instead of 0.1.
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        # Left to click, a closed pipe would end the process with 1, which is an answer here, and ^C would add an empty line to stderr.
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeClosedError from error
        except KeyboardInterrupt as error:
            raise click.Abort from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: artifactmount snapshot ./animals animals && artifactmount mount ~/mnt && ls ~/mnt/animals/latest/",
)
@click.option("--project", metavar="URL", help="s3://bucket/prefix, or a folder. Default: $ARTIFACTMOUNT_PROJECT, the config file.")
@click.option("--cache", metavar="DIR", help="Where to cache. Default: $ARTIFACTMOUNT_CACHE, or ~/.cache/artifactmount.")
@click.option("--cache-size", metavar="SIZE", help="What to cache at most, e.g. 64M. Default: $ARTIFACTMOUNT_CACHE_SIZE, or 10G.")
@click.option("--key-file", metavar="FILE", help="The key of an encrypted project. Default: $ARTIFACTMOUNT_KEY_FILE, the config file.")
@click.version_option(__version__, message="artifactmount %(version)s")
@click.pass_context
def group(ctx: click.Context, project: str | None, cache: str | None, cache_size: str | None, key_file: str | None) -> None:
    """Versions of folders, on nothing but a folder or a bucket.

    ARTIFACT is a name; ARTIFACT:vN or ARTIFACT:ALIAS one version of it; without one, the latest is meant.
    """
    from artifactmount.cli.settings import Settings

    ctx.obj = Settings(project, cache, cache_size, key_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from artifactmount.errors import ArtifactError

    given = list(sys.argv[1:] if arguments is None else arguments)
    if _is_of_mount(given):
        from artifactmount.cli.fstab import main as mount

        return mount(given)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    # Names are bytes: what is not UTF-8 goes out as it came in.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        result = group.main(args=given, prog_name="artifactmount", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "artifactmount"
        return _fail(f"{' '.join(error.format_message().split())} (see {command} --help)", 2, command)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except ArtifactError as error:
        return _fail(str(error), error.exit_code)
    except (BrokenPipeError, _PipeClosedError):
        _forget_stdout()
        return _PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", _INTERRUPTED)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        if not where and _is_of_printing(error):
            where = "standard output: "
            _forget_stdout()
        return _fail(f"{where}{error.strerror or error}", 4)
    except Exception as error:  # noqa: BLE001 - a bug; still one line
        return _fail(f"internal error: {type(error).__name__}: {error} (ARTIFACTMOUNT_DEBUG=1 shows where)", _INTERNAL)
    return int(result or 0)


def _is_of_mount(arguments: Sequence[str]) -> bool:
    """Whether mount.fuse3 runs this, as `artifactmount SOURCE MOUNTPOINT -o OPTIONS`: it does where its own helper is not installed."""
    return len(arguments) >= 3 and arguments[2] == "-o" and arguments[0][:1] != "-" and arguments[0] not in COMMANDS


def _is_of_printing(error: OSError) -> bool:
    """Whether output could not be written: `print` has no frame of its own, and what else this package calls names a file, or is deeper."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and str(at.tb_frame.f_globals.get("__name__")).startswith(__name__)


def _forget_stdout() -> None:
    """Python flushes once more at its end, so stdout must lead somewhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int, command: str = "artifactmount") -> int:
    if os.environ.get("ARTIFACTMOUNT_DEBUG"):
        traceback.print_exc()
    from artifactmount.cli.text import plain

    print(f"{command}: {plain(' '.join(message.splitlines()))}", file=sys.stderr)
    return code

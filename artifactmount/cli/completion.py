"""`artifactmount completion`, and what a shell is told when it asks: commands, options, and the artifacts this machine has seen."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from artifactmount.cli.settings import Settings
from artifactmount.errors import ArtifactError
from artifactmount.pins import Pins
from artifactmount.project import open_store

SHELLS = ("bash", "zsh", "fish")


@click.command(epilog="Example: echo 'eval \"$(artifactmount completion bash)\"' >> ~/.bashrc")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and artifacts.

    Artifacts are those that this machine has seen in the project: nothing is asked of the store while somebody types.
    """
    made = get_completion_class(shell)
    assert made is not None
    print(made(ctx.find_root().command, {}, "artifactmount", "_ARTIFACTMOUNT_COMPLETE").source())


class _ArtifactName(click.types.StringParamType):
    """Any text; completed from what was seen."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before = ctx.find_root().params
        settings = Settings(before.get("project"), None, None)
        try:
            seen = Pins(open_store(settings.url).place, settings.state_directory).artifacts()
        except (ArtifactError, OSError):  # a shell that waits for words has no use for a complaint
            return []
        return [CompletionItem(name) for name in sorted(seen) if name.startswith(incomplete)]


def complete_artifacts(command: click.Command) -> None:
    """Let the arguments of a command that are artifacts be completed."""
    for param in command.params:
        if isinstance(param, click.Argument) and "ARTIFACT" in (param.metavar or param.human_readable_name):
            param.type = _ArtifactName()

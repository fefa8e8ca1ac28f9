"""`completion`: the script that makes a shell complete swarmpy's commands and flags."""

from __future__ import annotations

import click
from swarmpy.cli.options import DockerCommand

SHELLS = click.Choice(["bash", "zsh", "fish"])


@click.command(cls=DockerCommand)
@click.argument("shell", type=SHELLS)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  swarmpy completion bash > /etc/bash_completion.d/swarmpy   (bash 4.4 or later)
    zsh:   swarmpy completion zsh > "${fpath[1]}/_swarmpy"
    fish:  swarmpy completion fish > ~/.config/fish/completions/swarmpy.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    maker = kind(ctx.find_root().command, {}, "swarmpy", "_SWARMPY_COMPLETE")
    # Not maker.source(): for bash that runs a bash to see its version, which need not be on this machine.
    click.echo(maker.source_template % maker.source_vars())

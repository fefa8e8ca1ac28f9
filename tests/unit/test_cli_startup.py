"""Help answers without loading grpc or protobuf, and every command has one."""

from __future__ import annotations

import subprocess
import sys

WALK = """
import sys
import click
from click.testing import CliRunner
from swarmpy.cli.errors import CliError
from swarmpy.cli.main import root

def walk(command, path):
    result = CliRunner().invoke(root, [*path, "--help"])
    assert result.exit_code == 0, (path, result.output)
    assert "Usage: swarmpy" in result.output, path
    loaded = {"grpc", "google.protobuf", "asyncio"} & set(sys.modules)
    assert not loaded, (path, loaded)
    print(" ".join(path))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            try:
                found = command.get_command(context, name)
            except CliError as error:
                assert "not part of this installation" in error.message
                continue
            walk(found, [*path, name])

walk(root, [])
"""


def test_no_help_loads_grpc() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = set(done.stdout.splitlines())
    assert {
        "",
        "service create",
        "service update",
        "node ls",
        "image load",
        "network rm",
        "events",
        "token",
    } <= shown


def test_a_part_that_is_missing_is_a_sentence() -> None:
    script = (
        "import sys; sys.modules['swarmpy.cli.network'] = None\n"
        "from swarmpy.cli.main import COMMANDS, Entry, root\n"
        "COMMANDS['network'] = Entry('swarmpy.cli.nowhere:x', 'x')\n"
        "root.main(['network'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "Error: `swarmpy network` is not part of this installation (swarmpy.cli.nowhere is missing).\n"
    )

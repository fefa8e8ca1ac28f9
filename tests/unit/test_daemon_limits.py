"""What a role asks of the machine before it begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
soft, hard = (int(word) for word in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from swarmpy.node.daemon_roles import allow_files
allow_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(256, 4096, 4096), (4096, 4096, 4096)])
def test_an_agent_may_open_what_the_machine_allows(soft: int, hard: int, allowed: int) -> None:
    argv = [sys.executable, "-c", PROGRAM, str(soft), str(hard)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(allowed), str(hard)]

"""What the packed executable runs: the command line, or with `-P -m MODULE` a module, as Python would.

A node starts its roles with `sys.executable -P -m …`; packed, that is this program.
"""

import os
import runpy
import sys

PYTHON_FLAGS = {"-P", "-S"}


def own_libraries_only_here() -> None:
    """The loader's search path is for this process: crun, conmon and nft must find their own libraries."""
    before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if before is not None:
        os.environ["LD_LIBRARY_PATH"] = before
    elif getattr(sys, "frozen", False):
        os.environ.pop("LD_LIBRARY_PATH", None)


def main() -> None:
    own_libraries_only_here()
    arguments = sys.argv[1:]
    if arguments[:1] == ["-P"]:
        while arguments[0] in PYTHON_FLAGS:
            arguments.pop(0)
        if arguments[0] != "-m":
            sys.exit(f"unexpected argument {arguments[0]!r}")
        module, sys.argv = arguments[1], arguments[1:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from swarmpy.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()

"""`make deb`: dist/swarmpy_VERSION_ARCH.deb, with its own Python, man pages and completions.

The tree of binary.py goes to /usr/lib/swarmpy, so the package does not depend on the distribution's Python.
Removing the package leaves the node's state, as it leaves the containers; `swarmpy uninstall` takes both away.

    python .ci/package/deb.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import binary  # noqa: E402
import manual  # noqa: E402

CONTROL = """Package: swarmpy
Version: @VERSION@
Architecture: @ARCH@
Maintainer: The swarmpy maintainers <maintainers@swarmpy.invalid>
Section: admin
Priority: optional
Depends: libc6 (>= @LIBC@), crun | runc, conmon, nftables, iproute2
Recommends: tini, busybox-static
Suggests: buildah
Installed-Size: @KIB@
Description: peer-to-peer container orchestrator
 Docker Swarm's commands, Raft-replicated state, OCI containers, a routed overlay network and no daemon but
 its own. `swarmpy init` makes a cluster, `swarmpy join` adds a machine.
"""
# The daemon's unit is written by init and join. A new build is used once the daemon is restarted, which
# containers survive.
POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ] && systemctl is-active --quiet swarmpy; then
    systemctl restart swarmpy || true
fi
"""
PRERM = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -e /var/lib/swarmpy/node.json ]; then
    echo "swarmpy: this machine is still a node of a cluster: run 'swarmpy leave' (or 'swarmpy uninstall') first" >&2
    exit 1
fi
"""
LAUNCHER = """#!/bin/sh
SWARMPY_BINARY=/usr/bin/swarmpy
export SWARMPY_BINARY
exec /usr/lib/swarmpy/swarmpy "$@"
"""


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def build() -> Path:
    tree = binary.tree()
    root = binary.WORK / "deb"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(tree, root / "usr/lib/swarmpy", symlinks=True)
    write(root / "usr/bin/swarmpy", LAUNCHER, 0o755)
    manual.write_all(root / "usr/share/man/man1")
    for shell, place in (
        ("bash", "bash-completion/completions/swarmpy"),
        ("zsh", "zsh/vendor-completions/_swarmpy"),
        ("fish", "fish/vendor_completions.d/swarmpy.fish"),
    ):
        write(root / "usr/share" / place, output(str(tree / "swarmpy"), "completion", shell) + "\n")
    shutil.copy(binary.TOP / "LICENSE", root / "usr/lib/swarmpy/LICENSE")
    write(root / "usr/share/doc/swarmpy/copyright", "License: Apache-2.0, see /usr/lib/swarmpy/LICENSE\n")
    kib = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir()) // 1024
    arch = output("dpkg", "--print-architecture")
    libc = output("ldd", "--version").splitlines()[0].rsplit(" ", 1)[1]
    control = (
        CONTROL.replace("@VERSION@", binary.version()).replace("@ARCH@", arch).replace("@KIB@", str(kib))
    )
    write(root / "DEBIAN/control", control.replace("@LIBC@", libc))
    write(root / "DEBIAN/postinst", POSTINST, 0o755)
    write(root / "DEBIAN/prerm", PRERM, 0o755)
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    target = binary.TOP / "dist" / f"swarmpy_{binary.version()}_{arch}.deb"
    target.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "-b", str(root), str(target)], check=True
    )
    return target


if __name__ == "__main__":
    made = build()
    print(f"{made}  {made.stat().st_size / 1e6:.1f} MB")

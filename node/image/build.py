"""Make a small image from this machine's busybox: for the demo, for tests, for a node without a registry.

Needs Debian's busybox-static (any static busybox). The archive has the form of
`docker save`; the same busybox gives the same bytes.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from swarmpy.node.image import manifest
from swarmpy.node.image import reference as references
from swarmpy.node.image.errors import Unsupported

BUSYBOX = Path("/bin/busybox")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES = (
    "bin", "dev", "etc", "home", "lib", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/sbin", "sbin",
    "var", "var/log", "www", "www/cgi-bin",
)  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "www/index.html": "<!doctype html><title>swarmpy</title><p>It works.\n",
}
_HOSTNAME_SCRIPT = (
    "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\nCache-Control: no-store\\r\\n\\r\\n'\nhostname\n"
)
WEB_COMMAND = ("/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")


def build_busybox_image(
    destination: Path, *, reference: str, web: bool, command: Sequence[str] = (), busybox: Path = BUSYBOX
) -> Path:
    """Write the archive to `destination` and return it.

    `web`: runs busybox httpd on port 80, `/` is a page and `/cgi-bin/hostname` the
    container's host name; else a shell. `command` replaces either.
    """
    name = references.parse(reference)
    layer = busybox_layer(busybox)
    diff_id = manifest.sha256(layer)
    config = manifest.canonical_json(
        {
            "architecture": manifest.host_platform().architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Env": [f"PATH={SEARCH_PATH}"],
                "Cmd": list(command) or (list(WEB_COMMAND) if web else ["/bin/sh"]),
                "WorkingDir": "/",
                **({"ExposedPorts": {"80/tcp": {}}} if web else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created_by": "busybox"}],
        }
    )
    layer_name = f"{diff_id.removeprefix('sha256:')}/layer.tar"
    config_name = f"{manifest.sha256(config).removeprefix('sha256:')}.json"
    listing = [{"Config": config_name, "RepoTags": [str(name)], "Layers": [layer_name]}]
    with tarfile.open(destination, "w") as archive:
        for member, data in (
            (layer_name, layer),
            (config_name, config),
            ("manifest.json", json.dumps(listing).encode()),
        ):
            _add(archive, member, data, 0o644)
    return destination


def busybox_layer(busybox: Path = BUSYBOX) -> bytes:
    """The root file system: one binary, a symlink for each of its applets."""
    if not busybox.exists():
        raise Unsupported(f"{busybox} is missing: run `apt-get install busybox-static`")
    program = busybox.read_bytes()
    if b"/ld-linux" in program or b"/lib/ld-musl" in program:
        raise Unsupported(f"{busybox} is not static: run `apt-get install busybox-static`")
    applets = subprocess.run(
        [str(busybox), "--list"], capture_output=True, text=True, check=True, timeout=10
    ).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in _DIRECTORIES:
            _entry(archive, name, tarfile.DIRTYPE, 0o755)
        _entry(archive, "tmp", tarfile.DIRTYPE, 0o1777)
        _add(archive, "bin/busybox", program, 0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            _entry(archive, f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        for name, text in _FILES.items():
            _add(archive, name, text.encode(), 0o644)
        _add(archive, "www/cgi-bin/hostname", _HOSTNAME_SCRIPT.encode(), 0o755)
    return buffer.getvalue()


def _entry(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, *, link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname = kind, mode, link
    archive.addfile(member)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))

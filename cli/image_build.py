"""`image build`: a Containerfile becomes an image of the cluster, through buildah on this machine.

Everything that buildah keeps lies in one directory that goes with the command, whatever ends it; its
processes and mounts live in namespaces of their own, which end with the first of them. What a command that
was killed with SIGKILL left is removed by the next build. Base images that the cluster holds are taken from
there, the others from their registries, by buildah and with its own logins. With --cache DIR the layers stay
in that directory for the next build.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.cli.image_push import chunks
from swarmpy.cli.image_show import CHUNK_BYTES, show
from swarmpy.cli.options import Value, connect, refused

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

PREFIX = "swarmpy-build-"
NAMES = ("Containerfile", "Dockerfile")
FILE_BYTES_MAX = 1024 * 1024
END_S = 10.0
KEPT_LINES = 40
MISSING = (
    "buildah is not installed on this machine: run `apt-get install buildah` "
    "(Fedora: `dnf install buildah`), or build elsewhere and use `swarmpy image push`."
)
CONFINED = (
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_COPIED = re.compile(r"^\s*(?:COPY|ADD|RUN)\s.*?(?:--from=|,from=)([^\s,]+)", re.IGNORECASE)
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
REGISTRIES = 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n'


@click.command("build")
@click.argument("context", type=click.Path(exists=True, file_okay=False))
@click.option(
    "-t", "--tag", "names", multiple=True, required=True, help="Name in the cluster; repeat for more"
)
@click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(dir_okay=False),
    help="Containerfile (in CONTEXT: Containerfile, Dockerfile)",
)
@click.option(
    "--build-arg",
    "arguments",
    type=Value(parse.key_value, "key=value"),
    multiple=True,
    help="KEY=VALUE for ARG",
)
@click.option("--target", default="", help="Stage to stop at")
@click.option(
    "--label", "labels", type=Value(parse.key_value, "key=value"), multiple=True, help="Label: KEY=VALUE"
)
@click.option("--no-cache", is_flag=True, help="Do every step again (only with --cache there is one)")
@click.option(
    "--cache", type=click.Path(file_okay=False), help="Directory in which the layers stay for the next build"
)
@click.option("--network", type=click.Choice(["host", "none"]), default="host", help="Network of RUN (host)")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, only the name")
@refused("--platform", why="an image is built for this machine's platform")
@refused("--push", why="what is built is in the cluster's store", switch=True)
@refused("--load", why="what is built is in the cluster's store", switch=True)
@refused("--secret")
@refused("--ssh")
@click.pass_context
def build(
    ctx: click.Context,
    context: str,
    names: tuple[str, ...],
    file: str | None,
    arguments: tuple[tuple[str, str], ...],
    target: str,
    labels: tuple[tuple[str, str], ...],
    no_cache: bool,
    cache: str | None,
    network: str,
    quiet: bool,
) -> None:
    """Build an image from a Containerfile, straight into the cluster."""
    if shutil.which("buildah") is None:
        raise CliError(MISSING)
    recipe = recipe_of(context, file)
    client = connect(ctx)
    client.status()  # rather no build than one that nobody takes
    options = ["--isolation", "chroot", "--format", "docker", "-f", str(recipe), "--network", network]
    options += ["--pull=false"]  # only what is not there yet: the cluster's images are
    options += [f"--build-arg={key}={value}" for key, value in arguments]
    options += [f"--label={key}={value}" for key, value in labels]
    options += [f"--target={target}"] if target else []
    options += ["--no-cache"] if no_cache else []
    options += ["--layers"] if cache else []
    with workshop(Path(cache) if cache else None) as shop:
        for name in bases(recipe):
            fetch_base(client, shop, name)
        shop.run("bud", *options, "-t", "localhost/swarmpy-build:latest", context, quiet=quiet)
        archive = shop.directory / "image.tar"
        shop.run("push", "-q", "localhost/swarmpy-build:latest", f"docker-archive:{archive}", quiet=True)
        with archive.open("rb") as data:
            pieces = iter(lambda: data.read(CHUNK_BYTES), b"")
            show(client.load_image(chunks(pieces, names[0])), quiet=quiet)
    name_again(client, names)
    from swarmpy.cli.views import familiar_name

    for name in names:
        click.echo(familiar_name(name) if quiet else f"Built: {familiar_name(name)}")


def name_again(client: Client, names: tuple[str, ...]) -> None:
    """The other names of what was built."""
    from swarmpy.cli.image import image_id
    from swarmpy.proto import objects_pb2

    if len(names) > 1:
        built = client.get("image", image_id(client, names[0]))
        for name in names[1:]:
            wanted = objects_pb2.Image(digest=built.digest)
            wanted.meta.name = name
            client.create(wanted)


def recipe_of(context: str, file: str | None) -> Path:
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise UsageRefused(f"{file} does not exist.")
        return path
    found = next((path for name in NAMES if (path := Path(context) / name).is_file()), None)
    if found is None:
        raise UsageRefused(f"{context} has no {' and no '.join(NAMES)}: name the file with -f.")
    return found


def bases(recipe: Path) -> list[str]:
    """Images that the file begins from or copies from, without its own stages and what ARGs name."""
    found: dict[str, None] = {}
    stages: set[str] = {"scratch"}
    with recipe.open(errors="replace") as lines:
        for line in lines.read(FILE_BYTES_MAX).replace("\\\n", " ").splitlines():
            if match := _FROM.match(line):
                found[match[1]] = None
                stages.add((match[2] or "").lower())
            elif match := _COPIED.match(line):
                found[match[1]] = None
    return [name for name in found if name.lower() not in stages and "$" not in name and not name.isdigit()]


def fetch_base(client: Client, shop: Workshop, name: str) -> None:
    """Into buildah's storage, where the cluster holds it; else buildah asks its registry."""
    from swarmpy.cli.errors import NotFound
    from swarmpy.proto import images_pb2, images_pb2_grpc

    if name.startswith(("oci:", "docker-archive:", "oci-archive:", "dir:", "docker://")):
        return
    archive = shop.directory / "base.tar"
    request = images_pb2.ImageSaveRequest(images=[name])
    try:
        with archive.open("wb") as file:
            for piece in client.answers(client.service_call(images_pb2_grpc.ImagesStub, "Save", request)):
                file.write(piece.data)
    except NotFound:
        archive.unlink()
        return
    identity = shop.run("pull", "-q", f"docker-archive:{archive}", quiet=True).strip().splitlines()[-1]
    archive.unlink()
    if "@" not in name:
        shop.run("tag", identity, name if "/" in name else f"localhost/{name}", quiet=True)


class Workshop:
    """buildah with a storage of its own."""

    def __init__(self, directory: Path, cache: Path | None) -> None:
        self.directory = directory
        (directory / "tmp").mkdir()
        (directory / "policy.json").write_text(json.dumps(POLICY))
        (directory / "registries.conf").write_text(REGISTRIES)
        root = cache.absolute() if cache else directory / "storage"
        self._globals = ["--root", str(root), "--runroot", str(directory / "run")]
        self._globals += ["--registries-conf", str(directory / "registries.conf")]
        self._env = {**os.environ, "TMPDIR": str(directory / "tmp")}

    def run(self, verb: str, *arguments: str, quiet: bool) -> str:
        """What it printed; with its own words in the error. Its progress goes on as it comes."""
        policy = ["--signature-policy", str(self.directory / "policy.json")] if verb != "tag" else []
        command = ["buildah", *self._globals, verb, *policy, *arguments]
        if os.geteuid() == 0:
            command = [*CONFINED, *command]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self._env, start_new_session=True, text=True, errors="replace",
        )  # fmt: skip
        lines: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines = [*lines, line][-KEPT_LINES:]
                if not quiet:
                    click.echo(line, err=True, nl=False)
            status = process.wait()
        finally:
            end(process)
        if status:
            said = "".join(lines if quiet else lines[-3:]).strip()
            raise CliError(f"buildah {verb} failed (status {status}): {said or 'no message'}")
        return "".join(lines)


def end(process: subprocess.Popen[str]) -> None:
    """With all that it started: the namespace ends with its first process."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
                break
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def workshop(cache: Path | None) -> Iterator[Workshop]:
    where = Path(os.environ.get("TMPDIR", "/var/tmp"))  # noqa: S108
    remove_abandoned(where)
    if cache is not None:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=where))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield Workshop(directory, cache)
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(where: Path) -> None:
    """Directories of builds that are not there any more; their mounts ended with their namespaces."""
    for path in where.glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)

"""Images as users have them, made from Debian's packages: nginx, redis, postgres, a Python web application.

They are built once by buildah on a base by mmdebstrap, and kept as archives below /var/tmp (or
SWARMPY_TEST_IMAGES); their recipes follow those of the official images and know nothing of swarmpy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

TOOLS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "docker-registry": "docker-registry"}
KEPT = Path(os.environ.get("SWARMPY_TEST_IMAGES", "/var/tmp/swarmpy-test-images"))
SUITE = "bookworm"
INSTALL = (
    "RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends {} "
    "&& rm -rf /var/lib/apt/lists/*"
)
POSTGRES_START = """#!/bin/sh
# Like the official image: begins as root, gives the data directory to its user, goes on as that.
set -e
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$PGDATA"
    chmod 0700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username=postgres --pwfile=/tmp/password --auth-host=scram-sha-256 -D "$PGDATA"
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec "$@" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
APPLICATION = """import os
import socket

import redis
from flask import Flask

app = Flask(__name__)
store = redis.Redis(host=os.environ.get("REDIS_HOST", "redis"), socket_timeout=3)


@app.get("/health")
def health():
    return "ok"


@app.get("/")
def count():
    return f"{store.incr('visits')} {socket.gethostname()}\\n"
"""
RECIPES = {
    "nginx": [
        INSTALL.format("nginx-light"),
        "RUN ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log",
        "RUN echo '<h1>Welcome to nginx!</h1>' > /var/www/html/index.html",
        "EXPOSE 80",
        "STOPSIGNAL SIGQUIT",
        'CMD ["nginx", "-g", "daemon off;"]',
    ],
    "redis": [
        INSTALL.format("redis-server"),
        "RUN mkdir /data && chown redis:redis /data",
        "VOLUME /data",
        "WORKDIR /data",
        "USER redis",
        "EXPOSE 6379",
        'CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--appendonly", "yes"]',
    ],
    "postgres": [
        INSTALL.format("postgresql-15"),
        "COPY start /usr/local/bin/docker-entrypoint.sh",
        "ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data",  # noqa: E501
        "VOLUME /var/lib/postgresql/data",
        "EXPOSE 5432",
        "STOPSIGNAL SIGINT",
        'ENTRYPOINT ["docker-entrypoint.sh"]',
        'CMD ["postgres"]',
    ],
    "webapp": [
        INSTALL.format("python3-flask python3-redis gunicorn"),
        "RUN useradd --create-home app",
        "COPY application.py /srv/application.py",
        "WORKDIR /srv",
        "USER app",
        "EXPOSE 8000",
        'CMD ["gunicorn", "--bind", "0.0.0.0:8000", "--workers", "2", "--access-logfile", "-", "application:app"]',
    ],
}


def missing() -> str:
    """What has to be installed, "" when all is."""
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    return (
        f"not installed: run `apt-get install --no-install-recommends {' '.join(lacking)}`" if lacking else ""
    )


def base() -> Path:
    """A root file system as `debian:bookworm-slim` has it."""
    kept = KEPT / "base.tar"
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        fresh = KEPT / f"base.{os.getpid()}.tar"
        run("mmdebstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(fresh))
        fresh.rename(kept)
    return kept


def archive(name: str) -> Path:
    """`docker save` of an image, named NAME:test."""
    recipe = ["FROM scratch", "ADD base.tar /", *RECIPES[name]]
    files = {"start": POSTGRES_START, "application.py": APPLICATION, "Containerfile": "\n".join(recipe)}
    version = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
    kept = KEPT / f"{name}-{version}.tar"
    if kept.exists():
        return kept
    root = base()
    with tempfile.TemporaryDirectory(prefix="swarmpy-images-", dir="/var/tmp") as directory:
        context = Path(directory) / "context"
        context.mkdir()
        os.link(root, context / "base.tar")
        for file, text in files.items():
            (context / file).write_text(text)
            (context / file).chmod(0o755)
        tool = ["buildah", "--root", f"{directory}/storage", "--runroot", f"{directory}/run"]
        fresh = KEPT / f"{name}.{os.getpid()}.tar"
        run(*tool, "bud", "--isolation", "chroot", "--format", "docker", "-t", f"{name}:test", str(context))
        run(*tool, "push", "-q", f"{name}:test", f"docker-archive:{fresh}:{name}:test")
        fresh.rename(kept)
    return kept


def run(*command: str, timeout_s: float = 900) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout

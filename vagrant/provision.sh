#!/bin/sh
# Installs swarmpy's wheel from /opt/swarmpy-dist and the system packages it needs. Runs as root; may run again.
set -eu
dist=/opt/swarmpy-dist
export DEBIAN_FRONTEND=noninteractive
wheel=$(ls -t "$dist"/swarmpy-*.whl 2>/dev/null | head -n 1)
[ -n "$wheel" ] || { echo "provision: no wheel in $dist: run 'make wheel' first, then 'vagrant rsync'" >&2; exit 1; }

missing=""
for pair in crun:crun runc:runc conmon:conmon nft:nftables tini:tini busybox:busybox-static rsync:rsync; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    apt-get update -q
    # shellcheck disable=SC2086
    apt-get install -q -y --no-install-recommends $missing
fi

[ -x /opt/swarmpy/bin/pip ] || python3 -m venv /opt/swarmpy
if [ -d "$dist/wheels" ]; then
    /opt/swarmpy/bin/pip install -q --disable-pip-version-check --no-index --find-links "$dist/wheels" "$wheel"
elif /opt/swarmpy/bin/python -c 'import grpc, cryptography, pysyncobj' 2>/dev/null; then
    # What it needs is there already (a box made by image.py): only swarmpy itself.
    /opt/swarmpy/bin/pip install -q --disable-pip-version-check --no-index --no-deps --force-reinstall "$wheel"
else
    /opt/swarmpy/bin/pip install -q --disable-pip-version-check "$wheel"
fi
ln -sf /opt/swarmpy/bin/swarmpy /usr/local/bin/swarmpy
swarmpy --version

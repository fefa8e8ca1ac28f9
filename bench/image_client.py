"""Pulls an image as an agent does, or brings one into a registry: a process of its own, for `bench.images`.

python -m bench.image_client pull REFERENCE DIRECTORY     pull, verify, unpack into a fresh store
python -m bench.image_client push HOST:PORT REPOSITORY LAYOUT    an OCI layout's blobs and manifest
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from swarmpy.node.image import manifest
from swarmpy.node.image.store import ImageStore


async def pull(reference: str, directory: Path) -> None:
    store = ImageStore(directory)
    await store.open()
    try:
        image = await store.pull(reference)
        await store.unpack(image.digest)
    finally:
        await store.close()


def push(host: str, repository: str, layout: Path) -> None:
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    data = blob_path(layout, entry["digest"]).read_bytes()
    parsed = json.loads(data)
    for blob in (parsed["config"], *parsed["layers"]):
        connection = http.client.HTTPConnection(host, timeout=120)
        connection.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        target = urlsplit(answer.headers["Location"])
        query = f"{target.query}&digest={blob['digest']}"
        with blob_path(layout, blob["digest"]).open("rb") as body:
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob["size"])}
            connection.request("PUT", f"{target.path}?{query}", body, headers)
            answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        connection.close()
    connection = http.client.HTTPConnection(host, timeout=120)
    connection.request("PUT", f"/v2/{repository}/manifests/1", data, {"Content-Type": manifest.OCI_MANIFEST})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


if __name__ == "__main__":
    if sys.argv[1] == "pull":
        asyncio.run(pull(sys.argv[2], Path(sys.argv[3])))
    else:
        push(sys.argv[2], sys.argv[3], Path(sys.argv[4]))

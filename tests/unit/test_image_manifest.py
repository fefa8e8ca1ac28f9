"""Manifests, indexes and configs: what is accepted, what is chosen, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.image import manifest
from swarmpy.node.image.errors import ArchiveDamaged, ImageError, Unsupported
from swarmpy.node.image.manifest import Index, Manifest, Platform

from tests.images import compressed_image, config_for, index_of

DIGEST = "sha256:" + "0" * 64
DOCUMENT, BLOBS = compressed_image([b"layer one", b"layer two"])


def test_a_manifest_lists_its_blobs_once() -> None:
    parsed = manifest.parse_document(DOCUMENT, "test")
    assert isinstance(parsed, Manifest)
    assert {blob.digest for blob in parsed.blobs} == set(BLOBS)
    config = manifest.parse_config(BLOBS[parsed.config.digest], parsed, "test")
    assert manifest.platform_of(config).fits(manifest.host_platform())


def test_chain_ids_follow_the_oci_rule() -> None:
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert manifest.chain_ids([first, second]) == (first, manifest.sha256(f"{first} {second}".encode()))


def test_an_index_gives_the_platform_that_fits_best() -> None:
    parsed = manifest.parse_document(index_of([(b"a", "amd64"), (b"b", "arm64")]), "test")
    assert isinstance(parsed, Index)
    assert parsed.choose(Platform("linux", "arm64"), "x").descriptor.digest == manifest.sha256(b"b")
    with pytest.raises(Unsupported, match="x has no image for linux/s390x; it has: linux/amd64, linux/arm64"):
        parsed.choose(Platform("linux", "s390x"), "x")


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(DOCUMENT), **fields}).encode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ArchiveDamaged),
        (b"[]", ArchiveDamaged),
        (b"{}", ArchiveDamaged),
        (b"[" * 100_000, ArchiveDamaged),
        (changed(layers="x"), ArchiveDamaged),
        (changed(layers=[{"digest": "sha256:../../etc/passwd", "size": 1}]), ArchiveDamaged),
        (changed(layers=[{"digest": DIGEST, "size": -1}]), ArchiveDamaged),
        (changed(layers=[{"digest": DIGEST, "size": True}]), ArchiveDamaged),
        (changed(layers=[{"digest": DIGEST.upper(), "size": 1}]), ArchiveDamaged),
        (changed(layers=[{"digest": DIGEST, "size": 1}] * 1000), Unsupported),
        (changed(config={"digest": DIGEST, "size": 1 << 30}), ArchiveDamaged),
        (
            changed(config={"digest": DIGEST, "size": 3, "mediaType": "application/vnd.cncf.helm"}),
            Unsupported,
        ),
        (b'{"schemaVersion": 1, "fsLayers": []}', Unsupported),
    ],
)
def test_bad_manifests(data: bytes, kind: type[ImageError]) -> None:
    with pytest.raises(kind):
        manifest.parse_document(data, "test")


@pytest.mark.parametrize(
    "config",
    [
        b"null",
        b'{"rootfs": []}',
        config_for([b"only one"]),
        config_for([b"layer one", b"layer two"], Entrypoint="not a list"),
        config_for([b"layer one", b"layer two"], Env=[1]),
        config_for([b"layer one", b"layer two"], User=7),
        config_for([b"layer one", b"layer two"], Cmd=["half a character: \ud800"]),
        config_for([b"layer one", b"layer two"], WorkingDir="/a\0b"),
    ],
)
def test_bad_configs(config: bytes) -> None:
    parsed = manifest.parse_document(DOCUMENT, "test")
    assert isinstance(parsed, Manifest)
    with pytest.raises(ArchiveDamaged):
        manifest.parse_config(config, parsed, "test")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["manifests", "layers", "config", "digest", "size", "mediaType", "platform"]),
            inner,
            max_size=5,
        )
    ),
)


@given(_json)
def test_any_json_is_a_document_or_refused(value: object) -> None:
    try:
        manifest.parse_document(json.dumps(value).encode(), "test")
    except ImageError:
        pass

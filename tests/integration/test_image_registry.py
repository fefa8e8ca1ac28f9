"""Pulling from a registry: authorization, platforms, resuming, redirects, every refusal in clear words."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from swarmpy.node.image import manifest, registry
from swarmpy.node.image.errors import (
    AuthRequired,
    DigestMismatch,
    ImageNotFound,
    RegistryUnreachable,
    Unsupported,
)  # fmt: skip
from swarmpy.node.image.store import Access, Credentials, ImageStore

from tests.image_registry import PASSWORD, USER, TestRegistry
from tests.images import compressed_image, entry, index_of, layer

T = TypeVar("T")
LAYERS = [layer(entry("a", os.urandom(300_000))), layer(entry("b", b"two"))]
DOCUMENT, BLOBS = compressed_image(LAYERS)
ALICE = Credentials(USER, PASSWORD)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RETRY_DELAYS_S", (0.01, 0.01, 0.01))


def with_store(tmp_path: Path, work: Callable[[ImageStore], Awaitable[T]]) -> T:
    async def run() -> T:
        store = ImageStore(tmp_path / "store")
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def test_pull_by_tag_and_digest(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("team/app", "v1", DOCUMENT, BLOBS)
        seen: list[tuple[str, str, int, int]] = []

        async def work(store: ImageStore) -> None:
            digest = await store.resolve(name)
            assert digest == manifest.sha256(DOCUMENT)
            image = await store.pull(name, progress=lambda *step: seen.append(step))
            assert (image.digest, image.references) == (digest, (name,))
            assert image.size_bytes == len(DOCUMENT) + sum(map(len, BLOBS.values()))
            assert len(image.layers) == 2
            asked = server.asked("blobs")
            again = await store.pull(f"{server.host}/team/app@{digest}")
            assert again.digest == digest
            assert server.asked("blobs") == asked == 3
            assert store.digests() == [digest]
            for blob, data in BLOBS.items():
                path = store.blob_path(blob)
                assert path is not None
                assert path.read_bytes() == data

        with_store(tmp_path, work)
        assert ("downloaded", max(BLOBS, key=lambda d: len(BLOBS[d]))) in {step[:2] for step in seen}


def test_a_reopened_store_knows_its_images(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        image = with_store(tmp_path, lambda store: store.pull(name))

    async def look(store: ImageStore) -> None:
        assert store.get(name) == image
        assert store.get(image.digest) == image
        assert store.list() == [image]

    with_store(tmp_path, look)


@pytest.mark.parametrize("send_digest", [True, False])
def test_an_index_leads_to_this_platform(tmp_path: Path, send_digest: bool) -> None:
    other, other_blobs = compressed_image([layer(entry("o", b"other"))])
    mine = manifest.host_platform().architecture
    index = index_of([(other, "s390x"), (DOCUMENT, mine)])
    with TestRegistry() as server:
        server.send_digest = send_digest
        server.put("app", "other", other, other_blobs)
        server.put("app", "mine", DOCUMENT, BLOBS)
        name = server.put("app", "v1", index, {})

        async def work(store: ImageStore) -> None:
            digest = await store.resolve(name)
            assert digest == manifest.sha256(index)
            image = await store.pull(name)
            assert image.digest == manifest.sha256(DOCUMENT)
            assert image.indexes == (digest,)
            found = store.get(digest)
            assert found is not None
            assert found.digest == image.digest
            assert set(store.digests()) == {digest, image.digest}
            with pytest.raises(Unsupported, match="this node is linux/s390x"):
                await store.pull(name, platform=manifest.Platform("linux", "s390x"))
            with pytest.raises(Unsupported, match="has no image for linux/riscv64"):
                await store.pull(name, platform=manifest.Platform("linux", "riscv64"))

        with_store(tmp_path, work)


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_credentials(tmp_path: Path, auth: str) -> None:
    with TestRegistry(auth=auth) as server:
        name = server.put("private/app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            with pytest.raises(AuthRequired, match="wants credentials for private/app"):
                await store.pull(name)
            with pytest.raises(AuthRequired, match="refuses these credentials"):
                await store.pull(name, access=Access(credentials=Credentials(USER, "wrong")))
            assert (await store.pull(name, access=Access(credentials=ALICE))).references == (name,)
            assert await store.resolve(name, access=Access(credentials=ALICE)) == manifest.sha256(DOCUMENT)

        with_store(tmp_path, work)
    assert PASSWORD not in repr(ALICE)


def test_a_redirect_to_another_host_gets_no_credentials(tmp_path: Path) -> None:
    with TestRegistry(auth="basic") as server, TestRegistry() as storage:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        storage.blobs = BLOBS
        server.redirect_blobs_to = storage.url
        with_store(tmp_path, lambda store: store.pull(name, access=Access(credentials=ALICE)))
        assert len(storage.requests) == 3
        assert not any("Authorization" in headers for _, _, headers in storage.requests)


def test_mirrors_are_asked_first_and_need_not_be_right(tmp_path: Path) -> None:
    with TestRegistry() as origin, TestRegistry(auth="basic") as mirror, TestRegistry() as liar:
        name = origin.put("team/app", "v1", DOCUMENT, BLOBS)
        mirror.put("team/app", "v1", DOCUMENT, {})
        whole = Access(mirrors=(Access("127.0.0.1:1"), Access(mirror.host, ALICE)))

        async def work(store: ImageStore) -> None:
            assert (await store.pull(name, access=whole)).references == (name,)
            assert mirror.asked("manifests") == 2  # once without, once with credentials
            assert origin.asked("manifests") == 0
            assert origin.asked("blobs") == len(BLOBS)
            await store.remove(name)
            await store.gc()
            # One that has other bytes under the same digest is passed over, too.
            liar.put("team/app", "v1", DOCUMENT, {blob: b"x" * len(data) for blob, data in BLOBS.items()})
            again = await store.pull(name, access=Access(mirrors=(Access(liar.host),)))
            assert again.digest == manifest.sha256(DOCUMENT)

        with_store(tmp_path, work)


def test_a_mirror_with_a_path(tmp_path: Path) -> None:
    with TestRegistry() as origin, TestRegistry() as mirror:
        name = origin.put("app", "v1", DOCUMENT, BLOBS)
        mirror.put("cache/app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            await store.pull(name, access=Access(mirrors=(Access(f"{mirror.host}/cache"),)))
            assert not origin.requests

        with_store(tmp_path, work)


def test_credentials_are_tried(tmp_path: Path) -> None:
    for auth in ("basic", "token"):
        with TestRegistry(auth=auth) as server:

            async def work(store: ImageStore, host: str = server.host) -> None:
                await store.check_registry(Access(host, ALICE))
                with pytest.raises(AuthRequired, match="refuses this user and password"):
                    await store.check_registry(Access(host, Credentials(USER, "wrong")))

            with_store(tmp_path, work)


def test_endless_redirects_end(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        server.redirect_blobs_to = f"{server.url}/v2/app/blobs"
        with pytest.raises(RegistryUnreachable, match="redirects"):
            with_store(tmp_path, lambda store: store.pull(name))


def test_a_broken_transfer_is_continued(tmp_path: Path) -> None:
    document, blobs = compressed_image([layer(entry("big", os.urandom(600_000)))])
    with TestRegistry() as server:
        name = server.put("app", "v1", document, blobs)
        config = min(blobs, key=lambda digest: len(blobs[digest]))
        with_store(tmp_path, lambda store: store.pull(server.put("first", "v1", document, {})))
        assert (tmp_path / "store/blobs/sha256" / config.removeprefix("sha256:")).exists()
    with TestRegistry() as server:
        name = server.put("app", "v1", document, blobs)
        server.cut_blobs_at = [200_000, 200_000, 200_000]
        with_store(tmp_path / "fresh", lambda store: store.pull(name))
        ranges = [headers.get("Range") for _, path, headers in server.requests if "/blobs/" in path]
        assert "bytes=200000-" in ranges


def test_what_a_crash_left_is_continued(tmp_path: Path) -> None:
    blob = max(BLOBS, key=lambda digest: len(BLOBS[digest]))
    with_store(tmp_path, lambda store: asyncio.sleep(0))
    (tmp_path / "store/ingest" / blob.removeprefix("sha256:")).write_bytes(BLOBS[blob][:1000])
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        with_store(tmp_path, lambda store: store.pull(name))
        assert [h["Range"] for _, _, h in server.requests if "Range" in h] == ["bytes=1000-"]


def test_rotten_remains_of_a_crash_are_begun_anew(tmp_path: Path) -> None:
    blob = max(BLOBS, key=lambda digest: len(BLOBS[digest]))
    with_store(tmp_path, lambda store: asyncio.sleep(0))
    (tmp_path / "store/ingest" / blob.removeprefix("sha256:")).write_bytes(b"x" * 1000)
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        assert with_store(tmp_path, lambda store: store.pull(name)).references == (name,)


def test_passing_faults_pass(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        server.fail_next = [503, 429, 500]
        assert with_store(tmp_path, lambda store: store.pull(name)).references == (name,)


def test_lasting_faults_are_named(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)
        server.fail_next = [503] * 50
        with pytest.raises(RegistryUnreachable, match="answered 503"):
            with_store(tmp_path, lambda store: store.pull(name))
        assert len(server.requests) == 4
        server.fail_next = [418]
        with pytest.raises(RegistryUnreachable, match="answered 418"):
            with_store(tmp_path, lambda store: store.pull(name))
        assert len(server.requests) == 5


def test_unknown_names(tmp_path: Path) -> None:
    with TestRegistry() as server:
        server.put("app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            for text in (f"{server.host}/app:nope", f"{server.host}/nope:v1"):
                with pytest.raises(ImageNotFound, match="check name and tag"):
                    await store.pull(text)
                with pytest.raises(ImageNotFound):
                    await store.resolve(text)
            with pytest.raises(ImageNotFound, match="lowercase"):
                await store.pull("Not/A/Name")
            assert store.list() == []

        with_store(tmp_path, work)


def test_no_registry_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RegistryUnreachable, match="cannot be reached: Connection refused"):
            with_store(tmp_path, lambda store: store.pull(f"127.0.0.1:{port}/app"))
    with pytest.raises(RegistryUnreachable, match=r"no\.such\.host\.invalid"):
        with_store(tmp_path, lambda store: store.resolve("no.such.host.invalid/app"))


def test_changed_content_is_refused_and_not_kept(tmp_path: Path) -> None:
    blob = max(BLOBS, key=lambda digest: len(BLOBS[digest]))
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, {**BLOBS, blob: bytes(len(BLOBS[blob]))})
        with pytest.raises(DigestMismatch):
            with_store(tmp_path, lambda store: store.pull(name))
        server.blobs[blob] = BLOBS[blob] + b"more"
        with pytest.raises(DigestMismatch, match="longer"):
            with_store(tmp_path, lambda store: store.pull(name))
        digest = manifest.sha256(DOCUMENT)
        server.documents["app", digest] = DOCUMENT + b" "
        with pytest.raises(DigestMismatch, match="manifest"):
            with_store(tmp_path, lambda store: store.pull(f"{server.host}/app@{digest}"))
    assert not (tmp_path / "store/blobs/sha256" / blob.removeprefix("sha256:")).exists()


def test_a_missing_layer_names_the_blob(tmp_path: Path) -> None:
    blob = max(BLOBS, key=lambda digest: len(BLOBS[digest]))
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, {d: data for d, data in BLOBS.items() if d != blob})
        with pytest.raises(ImageNotFound, match=blob):
            with_store(tmp_path, lambda store: store.pull(name))


def test_many_pulls_at_once_ask_for_each_blob_once(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            images = await asyncio.gather(*(store.pull(name) for _ in range(8)))
            assert {image.digest for image in images} == {manifest.sha256(DOCUMENT)}

        with_store(tmp_path, work)
        assert server.asked("blobs") == 3


def test_a_cancelled_pull_stops(tmp_path: Path) -> None:
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            started = asyncio.Event()
            task = asyncio.ensure_future(store.pull(name, progress=lambda *step: started.set()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert store.list() == []
            assert (await store.pull(name)).references == (name,)

        with_store(tmp_path, work)


def test_a_tag_that_moved(tmp_path: Path) -> None:
    fresh, fresh_blobs = compressed_image([layer(entry("new", b"new"))])
    with TestRegistry() as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            old = await store.pull(name)
            server.put("app", "v1", fresh, fresh_blobs)
            new = await store.pull(name)
            assert new.references == (name,)
            unnamed = store.get(old.digest)
            assert unnamed is not None
            assert unnamed.references == ()
            assert await store.gc() >= sum(len(BLOBS[d]) for d in BLOBS)
            assert store.list() == [new]

        with_store(tmp_path, work)


def tls_context(tmp_path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "both.pem").write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    return context


def local_address() -> str:
    """An own address that is not loopback, so that the rules for remote registries hold."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address besides loopback")
        return str(probe.getsockname()[0])


def test_tls_is_checked_unless_told_not_to(tmp_path: Path) -> None:
    with TestRegistry(tls=tls_context(tmp_path), address=local_address()) as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            with pytest.raises(RegistryUnreachable, match="certificate is not trusted"):
                await store.pull(name)
            assert (await store.pull(name, access=Access(insecure=True))).references == (name,)

        with_store(tmp_path, work)


def test_plain_http_elsewhere_needs_insecure(tmp_path: Path) -> None:
    with TestRegistry(address=local_address()) as server:
        name = server.put("app", "v1", DOCUMENT, BLOBS)

        async def work(store: ImageStore) -> None:
            with pytest.raises(RegistryUnreachable, match="does not speak TLS"):
                await store.pull(name)
            assert (await store.pull(name, access=Access(insecure=True))).references == (name,)

        with_store(tmp_path, work)

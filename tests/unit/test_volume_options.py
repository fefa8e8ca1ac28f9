"""Options of volumes as mount(2) is told them."""

from __future__ import annotations

import pytest
from swarmpy.node.volume.errors import VolumeRejected
from swarmpy.node.volume.options import MountCall, mount_call, size_bytes, without_secrets


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, None),
        ({"size": "1g"}, None),
        ({"type": "tmpfs", "o": "size=1m,noexec,nosuid"}, MountCall("tmpfs", "tmpfs", 8 | 2, "size=1m")),
        ({"type": "none", "device": "/x", "o": "rbind,ro"}, MountCall("none", "/x", 4096 | 16384 | 1, "")),
        ({"type": "ext4", "device": "/dev/x", "o": "ro,rw"}, MountCall("ext4", "/dev/x", 0, "")),
        (
            {"type": "nfs", "device": "srv:/x", "o": "vers=4,soft"},
            MountCall("nfs", "srv:/x", 0, "vers=4,soft", "srv"),
        ),
        ({"type": "nfs", "device": ":/x", "o": "addr=a.b"}, MountCall("nfs", ":/x", 0, "addr=a.b", "a.b")),
        ({"type": "nfs4", "device": "[fd::1]:/x"}, MountCall("nfs4", "[fd::1]:/x", 0, "", "fd::1")),
        ({"type": "cifs", "device": "//srv/s"}, MountCall("cifs", "//srv/s", 0, "", "srv")),
    ],
)
def test_calls(options: dict[str, str], call: MountCall | None) -> None:
    assert mount_call(options) == call


def test_the_kernel_gets_addresses() -> None:
    call = mount_call({"type": "nfs", "device": ":/x", "o": "addr=srv,vers=4"})
    assert call is not None
    assert call.with_address("192.0.2.1").data == "addr=192.0.2.1,vers=4"
    call = mount_call({"type": "cifs", "device": "//srv/s", "o": "username=u"})
    assert call is not None
    assert call.with_address("192.0.2.1").data == "ip=192.0.2.1,username=u"


def test_a_server_must_be_named() -> None:
    with pytest.raises(VolumeRejected, match="names no server"):
        mount_call({"type": "nfs", "device": ":/x"})


def test_sizes_and_secrets() -> None:
    assert size_bytes({}) == 0
    assert size_bytes({"size": "1.5g"}) == 1536 << 20
    assert without_secrets("username=u,password=geheim,vers=3") == "username=u,password=***,vers=3"
    assert without_secrets("pass=x") == "pass=***"

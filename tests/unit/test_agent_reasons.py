"""Reason codes: every error of a task's step has one that docs/errors.md names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.agent import payloads, reasons, runner
from swarmpy.node.image import errors as image
from swarmpy.node.image.reference import ReferenceInvalid
from swarmpy.node.runtime import errors as runtime
from swarmpy.node.volume import errors as volume
from swarmpy.overlay import errors as overlay

DOCUMENT = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith("swarmpy."):
            yield from below(child)


@pytest.mark.parametrize(
    "kind",
    [
        *below(image.ImageError), *below(runtime.ContainerError), *below(volume.VolumeError),
        *below(overlay.OverlayError), payloads.PayloadUnready, payloads.PayloadGone, runner.PortConflict,
        runner.NetworkUnready, ReferenceInvalid, OSError,
    ],
    ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_every_error_of_a_step_has_a_code_that_is_documented(kind: type[Exception]) -> None:
    code = reasons.code(kind.__new__(kind))
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", code)
    assert f"`{code}`" in DOCUMENT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (runner.PortConflict(), "PORT_CONFLICT"), (image.RegistryUnreachable("away"), "PULL_BACKOFF"),
        (FileNotFoundError(), "SYSTEM_ERROR"), (volume.VolumeFull("full"), "NO_SPACE"),
    ],
)  # fmt: skip
def test_codes_that_scripts_compare(error: Exception, code: str) -> None:
    assert reasons.code(error) == code

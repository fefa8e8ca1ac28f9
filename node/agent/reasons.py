"""The reason code of a task whose step failed: for programs; people read the sentence beside it. Pure.

docs/errors.md lists the codes and `tests/unit/test_agent_reasons.py` compares: a script may rely on them, so no
class can be renamed without somebody noticing.
"""

from __future__ import annotations

import re

from swarmpy.node.image import errors as image
from swarmpy.node.image.reference import ReferenceInvalid
from swarmpy.node.runtime import errors as runtime
from swarmpy.node.volume import errors as volume
from swarmpy.overlay.errors import OverlayError

CODES: dict[type[Exception], str] = {
    image.ImageNotFound: "IMAGE_NOT_FOUND", image.Unsupported: "IMAGE_UNSUPPORTED",
    image.AuthRequired: "PULL_REFUSED", image.RegistryUnreachable: "PULL_BACKOFF",
    image.SourceFailed: "PULL_BACKOFF", image.DigestMismatch: "IMAGE_DAMAGED",
    image.ArchiveDamaged: "IMAGE_DAMAGED", image.NoSpace: "NO_SPACE", image.StoreBusy: "PULL_BACKOFF",
    image.ImageError: "IMAGE_FAILED", ReferenceInvalid: "IMAGE_NAME_INVALID",
    runtime.StartRejected: "START_REJECTED", runtime.MissingTool: "MISSING_TOOL", runtime.NoSpace: "NO_SPACE",
    runtime.RuntimeFailure: "RUNTIME_FAILED", runtime.ContainerError: "RUNTIME_FAILED",
    volume.VolumeFull: "NO_SPACE", volume.VolumeLost: "VOLUME_LOST", volume.VolumeRejected: "VOLUME_REJECTED",
    volume.VolumeBusy: "VOLUME_FAILED", volume.VolumeFailure: "VOLUME_FAILED", volume.VolumeError: "VOLUME_FAILED",
    OverlayError: "NETWORK_FAILED", OSError: "SYSTEM_ERROR",
}  # fmt: skip
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def code(error: Exception) -> str:
    """Of the error's own class, else of the nearest one above it that has a code, else from its name."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return _WORD.sub("_", type(error).__name__).upper()

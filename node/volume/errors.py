"""What can go wrong with a volume.

VolumeError
├── VolumeFailure    the world failed this time: trying again is sensible
│   ├── VolumeFull   the disk, or the volume's own limit
│   └── VolumeBusy   containers use it
├── VolumeRejected   what was asked can never be on this node
└── VolumeLost       the contents should be here and are not: nothing is made in their place
"""

from __future__ import annotations

import errno


class VolumeError(Exception):
    """Base of every error this package raises on purpose."""


class VolumeFailure(VolumeError):
    """A step failed for a reason that may pass."""


class VolumeFull(VolumeFailure):
    """No space is left where the volume is."""


class VolumeBusy(VolumeFailure):
    """The volume is in use on this node."""


class VolumeRejected(VolumeError):
    """The volume cannot be what its options say."""


class VolumeLost(VolumeError):
    """The node had the volume and has it no more."""


def from_os_error(what: str, error: OSError) -> VolumeError:
    """The error for a failed system call."""
    text = f"{what}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return VolumeFull(f"{text}; free some space there")
    return VolumeFailure(text)

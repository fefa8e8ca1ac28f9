"""How much of this machine one image may use; generous for real images, finite for hostile ones."""

from __future__ import annotations

from dataclasses import dataclass

MANIFEST_BYTES_MAX = 4 * 1024 * 1024
CONFIG_BYTES_MAX = 8 * 1024 * 1024
LAYERS_MAX = 256
BLOB_BYTES_MAX = 1 << 40
ARCHIVE_ENTRIES_MAX = 20_000


@dataclass(frozen=True)
class Limits:
    layer_bytes_max: int = 32 << 30  # files of one layer, unpacked
    entries_max: int = 500_000  # of one layer
    ratio_max: int = 200  # unpacked to compressed, beyond …
    ratio_free_bytes: int = 1 << 30  # … this much
    cpu_s: int = 900  # of one unpacking
    unpack_deadline_s: int = 1800

    def bomb_bytes_max(self, compressed_bytes: int) -> int:
        """What a stream may expand to before it counts as a compression bomb."""
        return self.ratio_free_bytes + compressed_bytes * self.ratio_max

    def layer_stream_bytes_max(self, compressed_bytes: int) -> int:
        """Of a layer: content, plus headers and padding for each entry, but no bomb."""
        content = self.layer_bytes_max + self.entries_max * 1536
        return min(content, self.bomb_bytes_max(compressed_bytes))

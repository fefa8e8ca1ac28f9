"""The rows of `secret ls` and `config ls`. Pure but for protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarmpy.cli.output import Row, ago, short_id, size_word


def rows(items: Iterable[Any], now_ms: int, *, whole: bool) -> list[Row]:
    """By name."""
    return [
        {
            "ID": short_id(item.meta.id, whole=whole),
            "Name": item.meta.name,
            "CreatedAt": ago(item.meta.created_ms, now_ms),
            "UpdatedAt": ago(item.meta.updated_ms, now_ms),
            "Size": size_word(item.size_bytes),
            "Labels": dict(item.meta.labels),
            "LabelsText": ",".join(f"{key}={value}" for key, value in sorted(item.meta.labels.items())),
            "Driver": "",
        }
        for item in sorted(items, key=lambda item: str(item.meta.name))
    ]

"""Which nodes hold an image: for placing where it need not be fetched, and for `node.has(IMAGE)`. Pure.

`node.has` is asked when a task is placed and not again: a node that drops the image, or a name that moves on to
another image, ends no task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from swarmpy.node.plan.base import View
from swarmpy.node.plan.constraints import HAS_IMAGE, Constraint
from swarmpy.proto import store_pb2


def normalise(reference: str) -> str:
    """The form under which an image is recorded: with registry, path and tag, like Docker's."""
    name, _, digest = reference.partition("@")
    head, slash, rest = name.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        head, rest = "docker.io", name if slash else f"library/{name}"
    if ":" not in rest.rsplit("/", 1)[-1] and not digest:
        rest += ":latest"
    return f"{head}/{rest}" + (f"@{digest}" if digest else "")


def holders_of(view: View, digest: str) -> frozenset[str]:
    """The nodes that have an image."""
    if not digest:
        return frozenset()
    return frozenset(
        node_id for image in view.images() if image.digest == digest for node_id in image.holders
    )


def holders_named(view: View, reference: str) -> frozenset[str]:
    """The nodes that have what a name stands for now; what was only noted under it counts if nothing is tagged."""
    name = normalise(reference)
    digest = name.partition("@")[2]
    for identity in () if digest else view.ids_named(store_pb2.KIND_IMAGE, name):
        image = view.image(identity)
        digest = image.digest if image is not None else ""
    if digest:
        return holders_of(view, digest)
    noted = [image for image in view.images() if image.meta.name.startswith(f"{name}@")]
    return frozenset(node_id for image in noted for node_id in image.holders)


def looked_up(view: View, constraints: Iterable[Constraint]) -> tuple[Constraint, ...]:
    """The constraints, those about images with the nodes that have them."""
    return tuple(
        replace(one, nodes=holders_named(view, one.values[0])) if one.key == HAS_IMAGE else one
        for one in constraints
    )


def asks_for_images(constraints: Iterable[Constraint]) -> bool:
    return any(one.key == HAS_IMAGE for one in constraints)

"""Creating the containers of a pod: what they share is made before, and their mounts of it are filled in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from swarmpy.node.agent import pod
from swarmpy.node.runtime.request import ContainerRequest
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.proto import objects_pb2, types_pb2


async def create(
    runtime: Runtime, pod_id: str, spec: types_pb2.TaskSpec, role: objects_pb2.ContainerRole,
    request: ContainerRequest,
) -> None:  # fmt: skip
    """Create one container of a pod. With shared processes the main one comes before the sidecars."""
    pods = runtime.pods
    volumes = [
        mount
        for part in pod.parts(spec)
        for mount in part.container.mounts
        if mount.type == types_pb2.MOUNT_POD
    ]
    shared = await asyncio.to_thread(pods.make, pod_id, spec, volumes, request.ids)
    joins = spec.share_pid and role == pod.SIDECAR_ROLE
    if joins:
        shared = replace(shared, pid=pods.place(pod_id) / "pid")
    if shared.net is not None:
        request = replace(request, netns=shared.net, own_network=False)
    container = types_pb2.ContainerSpec()
    container.CopyFrom(request.spec)
    container.pid_mode, container.ipc_mode = spec.container.pid_mode, spec.container.ipc_mode
    for mount in container.mounts:
        if mount.type == types_pb2.MOUNT_POD:
            mount.source = str(pods.volume(pod_id, mount.source))
            mount.type = types_pb2.MOUNT_BIND
            mount.tmpfs_size_bytes = mount.tmpfs_mode = 0
    if joins:
        container.init, container.no_init = False, True  # the main container's init reaps for all
    await runtime.create(replace(request, spec=container, shared=shared))
    await asyncio.to_thread(pods.limit, pod_id, spec.pod_resources)
    if spec.share_pid and role == pod.MAIN_ROLE:
        pid = runtime.pids()[pod_id]
        await asyncio.to_thread(pods.share_pid, pod_id, pid)


def namespaces(runtime: Runtime, pod_id: str, spec: types_pb2.TaskSpec) -> dict[str, Path]:
    """Those of a pod that must belong to its user namespace, by kind: where they are kept."""
    if not pod.is_pod(spec):
        return {}
    place = runtime.pods.place(pod_id)
    return {"ipc": place / "ipc", **({"net": place / "net"} if spec.network_mode == "none" else {})}

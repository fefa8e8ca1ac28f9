"""The rows of the lists: Docker's columns, from the cluster's objects. Pure but for protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swarmpy.cli.converge import trouble, trouble_of
from swarmpy.cli.output import Row, ago, short_id, size_word
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

SERVICE_COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("MODE", "Mode"),
    ("REPLICAS", "Replicas"),
    ("IMAGE", "Image"),
    ("PORTS", "Ports"),
)
CONTAINER_STATE_WORDS = {
    objects_pb2.CONTAINER_WAITING: "Waiting",
    objects_pb2.CONTAINER_RUNNING: "Running",
    objects_pb2.CONTAINER_EXITED: "Exited",
}
CONTAINER_ROLE_WORDS = {
    objects_pb2.CONTAINER_MAIN: "(main)",
    objects_pb2.CONTAINER_INIT: "(init)",
    objects_pb2.CONTAINER_SIDECAR: "(sidecar)",
}
TASK_COLUMNS = (
    ("ID", "ID"),
    ("NAME", "Name"),
    ("IMAGE", "Image"),
    ("NODE", "Node"),
    ("DESIRED STATE", "DesiredState"),
    ("CURRENT STATE", "CurrentState"),
    ("ERROR", "Error"),
    ("PORTS", "Ports"),
    ("HEALTH", "Health"),
    ("VERSION", "Version"),
)
NETWORK_COLUMNS = (
    ("NETWORK ID", "ID"),
    ("NAME", "Name"),
    ("DRIVER", "Driver"),
    ("SCOPE", "Scope"),
    ("SUBNET", "Subnet"),
)
IMAGE_COLUMNS = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("NODES", "Nodes"),
)
MEMBER_COLUMNS = (
    ("ID", "ID"),
    ("HOSTNAME", "Hostname"),
    ("ADDRESS", "Address"),
    ("STATUS", "Status"),
    ("MATCH INDEX", "MatchIndex"),
)
STATE_NAMES = {int(value): name for name, value in types_pb2.TaskState.items()}
PROTOCOL_WORDS = {
    types_pb2.PROTOCOL_TCP: "tcp",
    types_pb2.PROTOCOL_UDP: "udp",
    types_pb2.PROTOCOL_SCTP: "sctp",
}
NODE_STATE_WORDS = {
    types_pb2.NODE_UNKNOWN: "Unknown",
    types_pb2.NODE_DOWN: "Down",
    types_pb2.NODE_READY: "Ready",
    types_pb2.NODE_DISCONNECTED: "Disconnected",
}
AVAILABILITY_WORDS = {
    types_pb2.AVAILABILITY_ACTIVE: "Active",
    types_pb2.AVAILABILITY_PAUSE: "Pause",
    types_pb2.AVAILABILITY_DRAIN: "Drain",
}


def service_rows(services: Iterable[Any], tasks: Iterable[Any], *, whole: bool) -> list[Row]:
    """`service ls`, by name."""
    running: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for task in tasks:
        if task.desired_state <= types_pb2.TASK_RUNNING:
            wanted[task.service_id] = wanted.get(task.service_id, 0) + 1
            runs = task.status.state == types_pb2.TASK_RUNNING
            running[task.service_id] = running.get(task.service_id, 0) + runs
    return [
        {
            "ID": short_id(service.meta.id, whole=whole),
            "Name": service.meta.name,
            "Mode": (service.spec.WhichOneof("mode") or "replicated").replace("_", "-"),
            "Replicas": replicas(service, running.get(service.meta.id, 0), wanted.get(service.meta.id, 0)),
            "Image": image_name(service.spec.task.container, whole=whole),
            "Ports": service_ports(service),
            "Labels": dict(service.meta.labels),
        }
        for service in sorted(services, key=lambda service: service.meta.name)
    ]


def replicas(service: Any, running: int, wanted: int) -> str:
    """`3/4`, with the limit per node where there is one."""
    total = {
        "ordered": service.spec.ordered.replicas,
        "replicated": service.spec.replicated.replicas,
    }.get(service.spec.WhichOneof("mode") or "replicated", wanted)
    limit = service.spec.task.placement.max_replicas_per_node
    removing = " (removing)" if service.pending_delete else " (stopped)" if service.spec.stopped else ""
    if service.spec.WhichOneof("mode") == "replicated_job":
        return (
            f"{running}/{total} ({service.job.succeeded}/{service.spec.replicated_job.completions} completed)"
        )
    return f"{running}/{total}" + (f" (max {limit} per node)" if limit else "") + removing


def image_name(container: Any, *, whole: bool) -> str:
    """The reference as the user gave it; the digest only where nothing is shortened."""
    name = container.image if whole else container.image.partition("@")[0] or container.image
    digest = container.image_digest
    return f"{name}@{digest}" if whole and digest and "@" not in name else str(name)


def service_ports(service: Any) -> str:
    """Published ports: those allocated, or those asked for while they are not."""
    ports = service.endpoint.ports or service.spec.endpoint.ports
    return ", ".join(port_word(port) for port in ports if port.mode == types_pb2.PUBLISH_INGRESS)


def port_word(port: Any) -> str:
    """`*:8080->80/tcp`."""
    address = f"[{port.address}]" if ":" in port.address else port.address or "*"
    return f"{address}:{port.published or '?'}->{port.target}/{PROTOCOL_WORDS[port.protocol]}"


def task_rows(
    tasks: Iterable[Any], nodes: Mapping[str, str], now_ms: int, *, whole: bool, tree: bool = True
) -> list[Row]:
    """`ps`: by name, newest first; with `tree` the older ones of a slot hang below the newest."""

    def order(task: Any) -> tuple[str, int, str, bool, int, int]:
        node_id = "" if task.slot else task.node_id
        ended = task.desired_state > types_pb2.TASK_RUNNING
        return task.service_name, task.slot, node_id, ended, -task.meta.created_ms, -task.meta.version

    rows: list[Row] = []
    last = None
    for task in sorted(tasks, key=order):
        slot = order(task)[:3]
        name = task_name(task)
        rows.append(
            {
                "ID": short_id(task.meta.id, whole=whole),
                "Name": f" \\_ {name}" if tree and slot == last else name,
                "Image": image_name(task.spec.container, whole=whole),
                "Node": nodes.get(task.node_id, task.node_id),
                "DesiredState": state_word(task.desired_state),
                "CurrentState": current_state(task, now_ms),
                "Error": task_error(task),
                "Ports": ", ".join(port_word(port) for port in task.host_ports),
                "Health": health(task.status.containers),
                "Version": task.spec_version or "",
            }
        )
        last = slot
        if tree and task.desired_state <= types_pb2.TASK_RUNNING and len(task.status.containers) > 1:
            rows += [container_row(task, name, one, now_ms) for one in task.status.containers]
    return rows


def container_row(task: Any, name: str, one: Any, now_ms: int) -> Row:
    """A container of a task that has several, below it."""
    word = CONTAINER_STATE_WORDS[one.state]
    if one.state == objects_pb2.CONTAINER_EXITED and one.exited:
        word = f"Exited ({one.exit_code})"
    restarts = f", restarted {one.restarts} times" if one.restarts else ""
    parts = (*task.spec.init_containers, *task.spec.sidecars)
    spec = next((part.container for part in parts if part.name == one.name), task.spec.container)
    return {
        "ID": "", "Name": f"    {name}/{one.name}", "Image": image_name(spec, whole=False), "Node": "",
        "DesiredState": CONTAINER_ROLE_WORDS[one.role],
        "CurrentState": f"{word} {ago(one.since_ms, now_ms).lower()}".strip() + restarts,
        "Error": " ".join(trouble_of(one).split()), "Ports": "",
        "Health": health([one]), "Version": "",
    }  # fmt: skip


def health(containers: Iterable[Any]) -> str:
    """What the checks of containers say together; "" where there are none, or nothing of them runs."""
    running = [one for one in containers if one.state == objects_pb2.CONTAINER_RUNNING]
    verdicts = {probe.verdict for one in running for probe in one.probes}
    if objects_pb2.VERDICT_FAILING in verdicts:
        return "failing"
    return ("starting" if objects_pb2.VERDICT_WAITING in verdicts else "healthy") if verdicts else ""


def current_state(task: Any, now_ms: int) -> str:
    """`Running 5 minutes ago`."""
    status, wanted = task.status, task.desired_state <= types_pb2.TASK_RUNNING
    unready = wanted and status.state == types_pb2.TASK_RUNNING and not status.ready and status.containers
    word = state_word(task.status.state) + (", not ready," if unready else "")
    return f"{word} {ago(task.status.since_ms, now_ms).lower()}".strip()


def task_name(task: Any) -> str:
    """`web.1`, or `web.NODE` for a global service."""
    return f"{task.service_name}.{task.slot or task.node_id}" if task.service_name else str(task.meta.name)


def task_error(task: Any) -> str:
    """Why it ended, or why it waits; always in full."""
    status = task.status
    ended = status.state in {types_pb2.TASK_FAILED, types_pb2.TASK_REJECTED}
    waits = status.state <= types_pb2.TASK_PENDING
    text = status.error or (status.message if ended or waits else "") or trouble(status)
    return " ".join(text.split())


def state_word(state: int) -> str:
    """`Running`."""
    name = STATE_NAMES.get(state, str(state))
    return name.removeprefix("TASK_").capitalize()


def member_rows(status: control_pb2.StatusResponse) -> list[Row]:
    """The managers, for `status`."""
    return [
        {
            "ID": member.node_id,
            "Hostname": member.hostname,
            "Address": member.address,
            "Status": "Leader" if member.leader else "Reachable" if member.reachable else "Unreachable",
            "MatchIndex": member.match_index,
        }
        for member in sorted(status.members, key=lambda member: (member.hostname, member.node_id))
    ]


def network_rows(networks: Iterable[objects_pb2.Network], *, whole: bool) -> list[Row]:
    """`network ls`, by name."""
    return [
        {
            "ID": short_id(network.meta.id, whole=whole),
            "Name": network.meta.name,
            "Driver": "overlay",
            "Scope": "swarm",
            "Subnet": network.subnet or network.spec.subnet or network.error,
            "Internal": network.spec.internal,
            "Labels": dict(network.meta.labels),
        }
        for network in sorted(networks, key=lambda network: network.meta.name)
    ]


def image_rows(
    images: Sequence[objects_pb2.Image], nodes: Mapping[str, str], now_ms: int, *, whole: bool
) -> list[Row]:
    """`image ls`, newest first."""
    rows: list[Row] = []
    for image in sorted(images, key=lambda image: (-image.meta.created_ms, image.meta.name)):
        familiar = familiar_name(image.meta.name)
        name, _, digest = familiar.partition("@")
        colon = name.rfind(":")
        has_tag = colon > name.rfind("/")
        short_digest = image.digest.removeprefix("sha256:")
        rows.append(
            {
                "ID": image.digest if whole else short_id(short_digest, whole=False),
                "Repository": name[:colon] if has_tag else name,
                "Tag": name[colon + 1 :] if has_tag else "<none>",
                "Digest": image.digest or digest,
                "CreatedSince": ago(image.meta.created_ms, now_ms),
                "Size": size_word(image.size_bytes),
                "Nodes": str(len(image.holders)),
                "Holders": [nodes.get(holder, holder) for holder in image.holders],
            }
        )
    return rows


def familiar_name(reference: str) -> str:
    """An image's name as people write it: without what Docker adds."""
    return reference.removeprefix("docker.io/").removeprefix("library/")

"""`service autoscale`: let the cluster choose how many tasks a service has, and show why it chose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import parse
from swarmpy.cli.errors import NotFound, UsageRefused
from swarmpy.cli.options import MILLISECONDS, DockerCommand, Value, connect, format_option
from swarmpy.cli.plan import plan_options

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

METRICS = ("cpu", "memory", "connections", "rps")
Policy = tuple[int, int, int]  # tasks, percent, period in ms


def percent(text: str) -> float:
    """`60%` or `60` -> 60."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if match is None or not 0 < float(match[1]) <= 10_000:
        raise ValueError(f"{text!r} is not a percentage: write for example 60%")
    return float(match[1])


def number(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e15:
        raise ValueError(f"{text!r} is not a number above 0")
    return value


def policies(text: str) -> tuple[str, tuple[Policy, ...]]:
    """`4/15s,100%/15s[,min]`, or `disabled`: what may happen within a period, and which limit counts."""
    found: list[Policy] = []
    select = ""
    for piece in text.split(","):
        if piece in ("min", "max", "disabled"):
            select = piece
            continue
        amount, slash, period = piece.partition("/")
        match = re.fullmatch(r"(\d{1,9})(%?)", amount)
        if match is None or not slash or not int(match[1]):
            raise ValueError(f"{piece!r} is no policy: write 4/15s, 100%/15s, min, max or disabled")
        count = int(match[1])
        found.append(
            (0, count, parse.duration_ms(period)) if match[2] else (count, 0, parse.duration_ms(period))
        )
    return select, tuple(found)


def prometheus(text: str) -> tuple[str, str, float]:
    """`url=URL,query=QUERY,target=100`; a value with commas is quoted as in CSV: `"query=sum(a,b)"`."""
    values = dict(parse.csv_pairs(text))
    unknown = sorted(set(values) - {"url", "query", "target"})
    if unknown or not {"url", "query", "target"} <= set(values):
        raise ValueError(f"{text!r}: write url=http://…,query=…,target=NUMBER")
    return values["url"], values["query"], number(values["target"])


PERCENT = Value(percent, "percent")
NUMBER = Value(number, "number")
POLICIES = Value(policies, "policies")


@click.command("autoscale", cls=DockerCommand)
@click.argument("name", required=False, default="", metavar="[SERVICE]")
@click.option("--min", "least", type=click.IntRange(1), help="Fewest tasks (1)")
@click.option("--max", "most", type=click.IntRange(1), help="Most tasks")
@click.option(
    "--cpu", type=PERCENT, help="Target: part of the CPU that a task reserves (else of its limit), like 60%"
)
@click.option("--memory", "--mem", "memory", type=PERCENT, help="Target: part of the memory, likewise")
@click.option("--connections", type=NUMBER, help="Target: open TCP connections of a task")
@click.option("--rps", type=NUMBER, help="Target: TCP connections that a task takes per second")
@click.option(
    "--prometheus",
    "queries",
    type=Value(prometheus, "url=,query=,target="),
    multiple=True,
    help="Target from elsewhere: the number is shared among the tasks",
)
@click.option("--scale-up", type=POLICIES, help="Rate: 4/15s,100%/15s (the default), min, disabled")
@click.option("--scale-down", type=POLICIES, help="Rate: 100%/15s (the default), min, disabled")
@click.option("--stabilize-up", type=MILLISECONDS, help="Window of the lowest recommendation (0s)")
@click.option("--stabilize-down", type=MILLISECONDS, help="Window of the highest recommendation (5m)")
@click.option("--dry-run/--no-dry-run", default=None, help="Decide and explain, change nothing")
@click.option(
    "--show", is_flag=True, help="Show the autoscaler and its last decisions (all, if none is named)"
)
@click.option("--rm", "remove", is_flag=True, help="Leave the number of tasks as it is from now on")
@format_option
@plan_options
@click.pass_context
def autoscale(
    ctx: click.Context, /, name: str, show: bool, remove: bool, template: str, **flags: Any
) -> None:
    """Scale a service by what its tasks use: CPU, memory, connections, or a number from Prometheus."""
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    if show + remove + bool(given) > 1:
        raise UsageRefused("--show and --rm go with no other flag.")
    client = connect(ctx)
    if show or (not given and not remove):
        return present(client, name, template)
    if not name:
        raise UsageRefused("Name the service to scale.")
    service = client.get("service", name)
    found = scaler_of(client, service.meta.id)
    if remove:
        if found is None:
            raise NotFound(f"Service {name} has no autoscaler.")
        client.delete("autoscaler", found.meta.id)
    elif found is None:
        from swarmpy.proto import objects_pb2

        if given.get("most") is None:
            raise UsageRefused("--max is missing: say how many tasks there may be at most.")
        made = objects_pb2.Autoscaler(spec=objects_pb2.AutoscalerSpec(service_id=service.meta.id, min=1))
        made.meta.name = service.meta.name
        edit(made.spec, given)
        client.create(made)
    else:
        client.change("autoscaler", found.meta.id, lambda scaler: edit(scaler.spec, given))
    click.echo(name)
    return None


def scaler_of(client: Client, service_id: str) -> Any:
    """The autoscaler of a service, or None."""
    return next((found for found in client.find("autoscaler") if found.spec.service_id == service_id), None)


def edit(spec: Any, given: dict[str, Any]) -> None:
    """The flags into the spec; metrics that are named replace all that were there."""
    from swarmpy.proto import objects_pb2

    for flag, field in (("least", "min"), ("most", "max"), ("dry_run", "dry_run")):
        if flag in given:
            setattr(spec, field, given[flag])
    metrics = [
        objects_pb2.Metric(kind=kind, target=given[flag])  # type: ignore[arg-type]
        for kind, flag in enumerate(METRICS)
        if flag in given
    ]
    metrics += [
        objects_pb2.Metric(kind=objects_pb2.METRIC_PROMETHEUS, url=url, query=query, target=target)
        for url, query, target in given.get("queries", ())
    ]
    if metrics:
        del spec.metrics[:]
        spec.metrics.extend(metrics)
    for side in ("up", "down"):
        rules = getattr(spec, side)
        if (given_rules := given.get(f"scale_{side}")) is not None:
            rules.select = given_rules[0]
            del rules.policies[:]
            for tasks, part, period_ms in given_rules[1]:
                rules.policies.add(tasks=tasks, percent=part, period_ms=period_ms)
        if (window_ms := given.get(f"stabilize_{side}")) is not None:
            rules.stabilization_ms = window_ms


def present(client: Client, name: str, template: str) -> None:
    """One autoscaler, or all of them."""
    from swarmpy.cli.output import print_documents

    found = client.find("autoscaler")
    if name:
        service = client.get("service", name)
        found = [scaler for scaler in found if scaler.spec.service_id == service.meta.id]
        if not found:
            raise NotFound(f"Service {name} has no autoscaler: make one with --max and a target.")
    if template != "table":
        print_documents(found, "table" if template == "json" else template)
        return
    replicas = {service.meta.id: service.spec.replicated.replicas for service in client.find("service")}
    for scaler in found:
        for line in lines(scaler, int(replicas.get(scaler.spec.service_id, 0))):
            click.echo(line)


def lines(scaler: Any, replicas: int) -> Iterator[str]:
    """What it wants and what it did."""
    from swarmpy.cli.output import ago
    from swarmpy.cli.task import now_ms

    spec = scaler.spec
    names = (*METRICS, "prometheus")
    targets = ", ".join(
        f"{names[metric.kind]} {metric.target:g}{'%' if metric.kind < 2 else ''}" for metric in spec.metrics
    )
    supposed = " (dry run)" if spec.dry_run else ""
    yield f"{scaler.meta.name}: {replicas} of {spec.min}–{spec.max} tasks; {targets}{supposed}"
    for decision in scaler.status.decisions:
        before = getattr(decision, "from")
        change = f"{before} -> {decision.to}" if before != decision.to else f"{decision.to} stay"
        yield f"  {ago(decision.at_ms, now_ms())}  {change}: {decision.reason}"
        for reading in decision.readings:
            known = reading.problem or f"{reading.value:g} of {reading.target:g}, proposes {reading.replicas}"
            counts = f"{reading.tasks} tasks"
            counts += f", {reading.missing} without numbers" if reading.missing else ""
            counts += f", {reading.unready} not ready" if reading.unready else ""
            yield f"      {reading.name}: {known} ({counts})"

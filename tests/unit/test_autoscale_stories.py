"""Autoscaling as an operator sees it, on the played cluster, with measured use that the test chooses."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from swarmpy.node.manager.elsewhere import ask, from_page, from_server
from swarmpy.node.manager.errors import QueryFailed
from swarmpy.node.plan import autoscale_math as maths
from swarmpy.node.plan.autoscale import AutoscalePlanner
from swarmpy.node.plan.autoscale_checks import problems
from swarmpy.node.plan.base import copy_of
from swarmpy.node.plan.samples import External, Sample, Samples
from swarmpy.node.runtime.meters import tcp_counters
from swarmpy.proto import objects_pb2

from tests.sim.plan_world import World
from tests.unit.test_plan_stories import calm, replicas, running, service_of, start

CPU = 100_000_000  # what a task reserves


class Load:
    """Feeds the planners' samples every 5 s: `use` is the CPU of the whole service in cores, shared equally."""

    def __init__(self, world: World, use: Callable[[], float]) -> None:
        self.world, self.use = world, use
        self.samples = self._of_leader()
        self.cpu_ns: dict[str, float] = {}

    def _of_leader(self) -> Samples:
        found = [
            leader.planner for leader in self.world.leaders if isinstance(leader.planner, AutoscalePlanner)
        ]
        return found[0].samples

    def run(self, duration_ms: int) -> list[int]:
        """The number of wanted tasks, every 5 s."""
        seen = []
        for _ in range(duration_ms // 5000):
            self.world.run(5000)
            self.samples = self._of_leader()
            tasks = running(self.world)
            for task in tasks:
                share = self.use() / len(tasks) * 5e9
                self.cpu_ns[task.meta.id] = self.cpu_ns.get(task.meta.id, 0) + share
                ready = copy_of(task)
                if not task.status.ready:
                    ready.status.ready = True
                    self.world.put(ready)
                self.samples.record(
                    task.meta.id, Sample(self.world.now_ms, cpu_ns=int(self.cpu_ns[task.meta.id]))
                )
            seen.append(int(service_of(self.world).spec.replicated.replicas))
        return seen


def scaled(world: World, **fields: object) -> objects_pb2.Autoscaler:
    made = objects_pb2.Autoscaler(spec=objects_pb2.AutoscalerSpec(service_id="web", min=1, max=10))
    made.meta.id = made.meta.name = "web"
    made.spec.metrics.add(kind=objects_pb2.METRIC_CPU, target=50)
    for name, value in fields.items():
        setattr(made.spec, name, value)
    world.put(made)
    return made


def begun(nodes: int = 4, count: int = 2) -> World:
    world = calm(nodes)
    start(world, count, lambda spec: setattr(spec.task.resources.reservations, "nano_cpus", CPU))
    return world


def scaler_of(world: World) -> objects_pb2.Autoscaler:
    found = world.store.autoscaler("web")
    assert found is not None
    return found


def test_it_grows_at_once_and_shrinks_after_five_minutes_of_calm() -> None:
    world = begun()
    scaled(world)
    use = [0.3]
    load = Load(world, lambda: use[0])
    assert load.run(60_000)[-1] == 6  # 0.3 cores at half of 0.1 each
    use[0] = 0.1
    assert load.run(280_000)[-1] == 6, "the highest recommendation of five minutes holds"
    assert load.run(60_000)[-1] == 2
    decisions = scaler_of(world).status.decisions
    moves = [(getattr(d, "from"), d.to) for d in decisions if getattr(d, "from") != d.to]
    assert (moves[0], moves[-1][1]) == ((2, 6), 2)
    assert decisions[0].readings[0].name == "cpu"
    assert any("held at 6 by stabilization" in decision.reason for decision in decisions)


def test_a_small_deviation_changes_nothing_and_writes_nothing() -> None:
    world = begun()
    scaled(world)
    load = Load(world, lambda: 0.104)
    load.run(60_000)
    writes = world.commits["autoscale"]
    load.run(300_000)
    assert service_of(world).spec.replicated.replicas == 2
    assert world.commits["autoscale"] == writes


def test_the_rate_of_growth_is_limited() -> None:
    world = begun(4, 1)
    scaled(world, max=60)
    load = Load(world, lambda: 2.5)
    seen = load.run(40_000)
    for before, after in zip(seen, seen[3:], strict=False):
        assert after <= max(before + 4, 2 * before), seen


def test_minimum_and_maximum_hold_without_any_numbers() -> None:
    world = begun(4, 2)
    scaled(world, min=3, max=5)
    world.run(20_000)
    assert service_of(world).spec.replicated.replicas == 3
    world.set_service("web", replicas(9))
    world.run(20_000)
    assert service_of(world).spec.replicated.replicas == 5


def test_a_new_leader_goes_on_where_the_old_one_stopped() -> None:
    world = begun()
    scaled(world)
    use = [0.3]
    load = Load(world, lambda: use[0])
    assert load.run(60_000)[-1] == 6
    use[0] = 0.05
    load.run(120_000)
    world.elect()
    assert load.run(120_000)[-1] == 6, "the window began before the election"
    assert load.run(400_000)[-1] == 1


def test_unknown_numbers_never_shrink_a_service() -> None:
    world = begun(4, 4)
    scaled(world)
    world.run(900_000)
    assert service_of(world).spec.replicated.replicas == 4
    assert scaler_of(world).status.decisions[-1].reason == "no metric is known: nothing changes"


def test_the_largest_of_several_metrics_counts_and_a_silent_one_forbids_shrinking() -> None:
    world = begun(4, 2)
    made = scaled(world)
    changed = copy_of(scaler_of(world))
    changed.spec.metrics.add(
        kind=objects_pb2.METRIC_PROMETHEUS, target=10, url="http://x/api/v1/query", query="q"
    )
    world.put(changed)
    load = Load(world, lambda: 0.1)
    queue = [60.0]
    for _ in range(6):
        load.samples.record_external("http://x/api/v1/query", "q", External(world.now_ms, queue[0]))
        load.run(5000)
    assert service_of(world).spec.replicated.replicas == 6
    load.run(600_000)
    assert service_of(world).spec.replicated.replicas == 6, "nobody answers: nothing shrinks"
    assert made.spec.max == 10


def test_dry_run_decides_and_changes_nothing() -> None:
    world = begun()
    scaled(world, dry_run=True)
    Load(world, lambda: 0.4).run(60_000)
    assert service_of(world).spec.replicated.replicas == 2
    last = scaler_of(world).status.decisions[-1]
    assert (last.to, last.reason.endswith("the rate of scaling up (dry run: nothing is changed)")) == (
        6,
        True,
    )


def test_it_goes_with_its_service() -> None:
    world = begun()
    scaled(world)
    service = copy_of(service_of(world))
    service.pending_delete = True
    world.put(service)
    world.run(60_000)
    assert world.store.autoscaler("web") is None


def test_what_cannot_be_is_refused_with_its_path() -> None:
    service = objects_pb2.Service()
    service.spec.replicated.replicas = 1
    spec = objects_pb2.AutoscalerSpec(min=3, max=2)
    spec.metrics.add(kind=objects_pb2.METRIC_CPU, target=50)
    spec.metrics.add(kind=objects_pb2.METRIC_PROMETHEUS, target=0, url="file:///etc/passwd")
    spec.up.policies.add(tasks=1, percent=1, period_ms=5)
    assert [problem.field_path for problem in problems(spec, service)] == [
        "spec.min", "spec.metrics[0]", "spec.metrics[1].target", "spec.metrics[1].url", "spec.metrics[1].query",
        "spec.up.policies[0]", "spec.up.policies[0].period_ms",
    ]  # fmt: skip
    getattr(service.spec, "global").SetInParent()
    assert problems(spec, service).__next__().field_path == "spec.service_id"


# ---- numbers from elsewhere


@pytest.fixture
def page() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on the loopback address, and what it answers."""
    body = [""]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if body[0].startswith("to ") else 200)
            if body[0].startswith("to "):
                self.send_header("Location", body[0][3:])
            self.end_headers()
            self.wfile.write(body[0].encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", body
    server.shutdown()
    server.server_close()
    thread.join()


def test_pages_and_servers_are_read(page: tuple[str, list[str]]) -> None:
    url, body = page
    body[0] = '# TYPE q gauge\nq{a="1",b="2"} 3\nq{a="2"} 4\nqq 100\nrate 1e3\n'
    assert ask(f"{url}/metrics", "q") == 7
    assert ask(f"{url}/metrics", 'q{a="1"}') == 3
    assert ask(f"{url}/metrics", "rate") == 1000
    body[0] = (
        '{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"2.5"]},{"value":[1,"1"]}]}}'
    )
    assert ask(f"{url}/api/v1/query", "sum(x)") == 3.5
    body[0] = "to file:///etc/passwd"
    with pytest.raises(QueryFailed, match="does not answer"):
        ask(f"{url}/metrics", "q")
    with pytest.raises(QueryFailed, match="does not answer"):
        ask("http://127.0.0.1:1/metrics", "q")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"status":"error","error":"bad"}',
        '{"status":"success","data":{"resultType":"vector","result":[]}}',
        '{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"NaN"]}]}}',
        '{"status":"success","data":{"resultType":"scalar","result":[1,"+Inf"]}}',
        '{"status":"success","data":{"resultType":"scalar","result":[1,"many"]}}',
        '{"status":' + "[" * 100_000,
    ],
)
def test_answers_without_a_number_are_errors(text: str) -> None:
    with pytest.raises(QueryFailed):
        from_server(text)


def test_a_page_without_the_metric_is_an_error() -> None:
    with pytest.raises(QueryFailed, match="has no metric q"):
        from_page("other 1\n", "q")
    with pytest.raises(QueryFailed, match="is no metric"):
        from_page("q 1\n", "q w e")
    with pytest.raises(QueryFailed, match="no number"):
        from_page("q NaN\n", "q")


def test_a_number_beyond_all_bounds_is_a_large_proposal() -> None:
    assert maths.proposal_of_total(1e308, 1e-9, 3) == int(maths.PROPOSED_MAX)


def test_rates_come_from_samples_and_old_ones_say_nothing() -> None:
    samples = Samples()
    assert samples.usage("t", 0) is None
    for second in range(0, 40, 5):
        samples.record(
            "t", Sample(second * 1000, cpu_ns=second * 10**8, accepted=second * 3, connections=second)
        )
    usage = samples.usage("t", 36_000)
    assert usage is not None
    assert (usage.nano_cpus, usage.requests_per_s, usage.connections) == (10**8, 3.0, 35)
    assert samples.usage("t", 35_000 + 31_000) is None
    samples.record("t", Sample(40_000, cpu_ns=5))
    assert samples.usage("t", 40_000) is None, "a counter that went back begins anew"


def test_tcp_counters_of_a_namespace() -> None:
    text = (
        b"Ip: Forwarding DefaultTTL\nIp: 1 64\n"
        b"Tcp: RtoAlgorithm ActiveOpens PassiveOpens CurrEstab\nTcp: 1 4 17 3\n"
    )
    assert tcp_counters(text) == (3, 17)
    assert tcp_counters(b"") == (0, 0)

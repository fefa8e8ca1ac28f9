"""The network of one machine: `Overlay` makes the kernel agree with a `Wanted` and attaches pods.

Rules
  - It works in the network namespace it is started in. All blocking calls run in one thread of its own, one
    after the other, so there is one writer per node.
  - The first `apply` compares with the kernel, later ones with what was applied last; an error or a
    difference found by `verify` makes the next one compare with the kernel again. The data plane keeps
    running unattended: `stop()` leaves everything in place, `stop(teardown=True)` removes it.
  - What a change leaves for packets on their way is deleted SWEEP_AFTER_S later, or before anything else happens.
  - A backend that leaves gets no new connections from the same transaction on. Its tracked UDP flows are
    forgotten at once. Its TCP connections go on (it may be draining) until the pod is gone, when its node
    answers with a reset; if its node is down, they are forgotten so that clients fail fast.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

from swarmpy.overlay import increment, ingress, ipam, namespaces, nfcodec, pods, policy, rules, seal, segment
from swarmpy.overlay.direct import Near, Target, adopted
from swarmpy.overlay.errors import KernelRefused, OverlayError
from swarmpy.overlay.ingress import Key
from swarmpy.overlay.kernel import Kernel, differences
from swarmpy.overlay.links import links
from swarmpy.overlay.lost import Prefix, backends, dead_blocks, is_lost, tracked_connections
from swarmpy.overlay.nfcodec import Connection, Elements
from swarmpy.overlay.pods import Addresses, Pod
from swarmpy.overlay.rules import State
from swarmpy.overlay.seal import SealState
from swarmpy.overlay.sealing import Sealer, methods
from swarmpy.overlay.skeleton import MESH, features, publishes
from swarmpy.overlay.wanted import Wanted, device_settings, without_ipv6

__all__ = ["Overlay", "OverlayError", "Pod", "Report"]

log = logging.getLogger(__name__)
T = TypeVar("T")
MTU_MIN, MTU_MAX = 576, 65485
SWEEP_AFTER_S = 0.05
PARSED_PER_DUMP = 800  # entries that we read in the time in which the kernel looks through its table
IGNORED_WHEN_FORGETTING = (errno.ENOENT, errno.ETIME)


@dataclass(frozen=True)
class Report:
    """What an `apply` did; `found` lists what differed in the kernel when it was compared."""

    changed: int
    compared: bool
    found: tuple[str, ...] = ()
    forgotten: int = 0


class Overlay:
    """The overlay network of one node; every method may be called again after a failure."""

    def __init__(self, *, netns_dir: Path, tag: str) -> None:
        self._worker = Worker(netns_dir, tag)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"overlay-{tag}")
        self._stopped = False

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def start(self) -> None:
        """Check the kernel and prepare the machine; OverlayError says what is missing and what to do."""
        await self._run(self._worker.start)

    async def apply(self, wanted: Wanted) -> Report:
        """Make the kernel agree with `wanted`, changing only what differs."""
        report = await self._run(lambda: self._worker.apply(wanted))
        self._sweep_later()
        return report

    def _sweep_later(self) -> None:
        if self._worker.left:
            asyncio.get_running_loop().call_later(SWEEP_AFTER_S, self._sweep)

    def _sweep(self) -> None:
        if not self._stopped:
            self._thread.submit(self._worker.sweep)

    def pin_of(self, pod_id: str) -> Path:
        """Where a pod's namespace is pinned; one that is there already is taken as it is."""
        pods.check_id(pod_id)
        return self._worker.directory / pod_id

    async def attach(self, pod_id: str, addresses: Addresses) -> Pod:
        """Give a pod its pinned namespace and addresses (network id, ip, subnet); adopts an existing one."""
        return await self._run(lambda: self._worker.attach(pod_id, addresses))

    async def detach(self, pod_id: str) -> None:
        """Take the pod's network away; unknown pods are fine."""
        await self._run(lambda: self._worker.detach(pod_id))

    async def pods(self) -> dict[str, Pod]:
        """Every pod that left traces in the kernel or in the pin directory."""
        return await self._run(self._worker.pods)

    async def verify(self) -> list[str]:
        """How the kernel differs from what was applied last; empty when it does not."""
        return await self._run(self._worker.verify)

    def seal_methods(self) -> tuple[str, ...]:
        """How this kernel can encrypt, best first; known once started."""
        return self._worker.seal_methods

    async def look(self) -> tuple[State, Wanted]:
        """What the kernel holds now, and what was applied last."""
        return await self._run(self._worker.look)

    async def connections(self) -> list[Connection]:
        """Every tracked connection."""
        return await self._run(self._worker.connections)

    async def vip_counts(self) -> dict[str, int]:
        """By virtual address: connections and UDP flows that this node and its pods opened to it."""
        return await self._run(self._worker.vip_counts)

    async def probe_near(self) -> tuple[frozenset[str], frozenset[str]]:
        """The nodes on this node's own segments, and those of them that are reached without VXLAN from now on."""
        targets, size = await self._run(self._worker.look_near)
        answered = await segment.probe(targets, size)
        await self._run(lambda: self._worker.prove_near(answered))
        self._sweep_later()
        return frozenset(target.node_id for target in targets), frozenset(answered)

    async def repair(self) -> None:
        """Compare with the kernel and put right what differs from what was applied last."""
        await self._run(self._worker.repair)

    async def stop(self, teardown: bool = False) -> None:
        """Close for good; with `teardown` also remove everything that was made, pods included."""
        if self._stopped:
            return
        self._stopped = True
        try:
            await self._run(lambda: self._worker.stop(teardown))
        finally:
            self._thread.shutdown(wait=False)


class Worker:
    """The blocking half of `Overlay`; all calls come from its one thread."""

    def __init__(self, netns_dir: Path, tag: str) -> None:
        self._directory = self.directory = netns_dir
        self._tag = tag
        self._opened: Kernel | None = None
        self._wanted: Wanted | None = None
        self._state: State | None = None
        self._device = 0
        self._features: set[str] = set()  # the optional rules that are loaded
        self._near: dict[str, Near] = {}  # nodes on this node's own segment
        self._let_in: Elements = {}  # what the kernel let in directly when this process began
        self._owned: dict[Key, str] | None = None  # whose the keys of the balancing maps are
        self.left: dict[str, Elements] = {}  # what `sweep` has to delete
        self._dead: list[Prefix] = []  # the blocks of nodes that do not answer
        self._addresses: dict[str, Addresses] = {}
        self._sealer: Sealer | None = None
        self._seal_problem = ""
        self.seal_methods: tuple[str, ...] = ()

    @property
    def _kernel(self) -> Kernel:
        if self._opened is None:
            raise OverlayError("the overlay is not started")
        return self._opened

    def start(self) -> None:
        if self._opened is None:
            self._opened = Kernel()
            self._sealer = Sealer(self._opened.route)
        self._kernel.check(self._tag)
        self.seal_methods = methods(self._kernel.route)
        namespaces.prepare_directory(self._directory)
        self._kernel.prepare_host()
        self._let_in = self._kernel.let_in()

    def sweep(self) -> None:
        """Delete what the last change left for packets that were on their way."""
        left, self.left = self.left, {}
        if not left:
            return
        try:
            self._kernel.nft.change_elements((), rules.SETS, left, {})
        except OverlayError as error:
            log.warning("kernel differs from what was applied, comparing at the next change error=%s", error)
            self._state = None

    def apply(self, wanted: Wanted) -> Report:
        self.sweep()
        if not self._kernel.ipv6:
            wanted = without_ipv6(wanted)
        if wanted == self._wanted and self._state is not None and not self._seal_problem:
            return Report(0, compared=False)
        report = self._apply_surely(wanted)
        if self._seal_problem:
            raise OverlayError(f"encrypted networks do not reach other nodes: {self._seal_problem}")
        return report

    def _apply_surely(self, wanted: Wanted) -> Report:
        """Apply; when the kernel turns out to differ from what is remembered, compare and apply again."""
        try:
            return self._apply_services(wanted) or self._apply(wanted)
        except KernelRefused as error:
            if self._state is None:
                raise
            log.warning("kernel differs from what was applied, comparing anew error=%s", error)
            self._state = None
            return self._apply(wanted)
        except (KeyError, ValueError) as error:
            raise OverlayError(f"the wanted network is not valid: {error}") from error

    def _apply_services(self, wanted: Wanted) -> Report | None:
        """The short way, when only some services changed; None when it must be the long one."""
        before, state = self._wanted, self._state
        if before is None or state is None or not (found := increment.changes(before, wanted)):
            return None
        if self._owned is None:
            self._owned = increment.owners(before)
        if MESH not in self._features and any(new and publishes(new) for _, new in found):
            return None  # the first published port needs rules of its own
        delta = increment.delta(found, wanted, state.sets, self._owned)
        if delta is None:
            return None
        self._state = None  # unknown until the change is complete
        chains = [(family, rules.BALANCE_TABLE, name) for family, name in sorted(delta.chains - state.chains)]
        left = ingress.surplus(delta.gone, delta.added)
        gone = {
            name: {key: data for key, data in elements.items() if key not in left.get(name, {})}
            for name, elements in delta.gone.items()
        }
        changed = self._kernel.nft.change_elements(chains, rules.SETS, gone, delta.added)
        self.left = left
        for name, elements in delta.gone.items():
            for key in elements:
                del state.sets[name][key]
        for name, elements in delta.added.items():
            state.sets[name].update(elements)
        forgotten = self._forget(delta.removed, self._dead) if delta.removed else 0
        self._wanted, self._state = wanted, replace(state, chains=state.chains | delta.chains)
        return Report(changed, compared=False, forgotten=forgotten)

    def _apply(self, wanted: Wanted) -> Report:
        kernel = self._kernel
        if not MTU_MIN <= wanted.mtu <= MTU_MAX:
            raise ValueError(f"the MTU {wanted.mtu} is outside {MTU_MIN} to {MTU_MAX}")
        compared = self._state is None
        settings = self._wanted is None or device_settings(self._wanted) != device_settings(wanted)
        settings |= not features(wanted) <= self._features
        if compared or settings:
            self._state = None
            self._features = kernel.ensure_skeleton(wanted)
            self._device, _ = kernel.ensure_device(wanted)
        if any(network.subnet6 for network in wanted.networks):
            kernel.forward_ipv6()
        old = self._state or kernel.read(self._device, wanted)
        if self._wanted is None:
            self._adopt(wanted)
            self._near = adopted(wanted, old.direct, self._let_in)
        sealed = self._seal(wanted)
        new = self._desired(wanted, old.sets, sealed)
        found = tuple(differences(old, new)) if compared else ()
        self._state = None  # unknown until the change is complete
        changed, self.left = kernel.change(old, new, self._device)
        forgotten = self._forget_unreachable(backends(old) - backends(new), wanted)
        self._owned = None
        left = kernel.drop_chains(old.chains - new.chains)
        self._wanted, self._state = wanted, replace(new, chains=new.chains | left)
        if changed:
            log.info("overlay applied changed=%d compared=%s forgotten=%d", changed, compared, forgotten)
        return Report(changed, compared, found, forgotten)

    def _desired(self, wanted: Wanted, previous: Mapping[str, Elements], sealed: SealState) -> State:
        return rules.desired(
            wanted, self._addresses, self._device, previous, sealed.reachable,
            near=self._near, mesh=MESH in self._features,
        )  # fmt: skip

    def look_near(self) -> tuple[list[Target], int]:
        """Whom to probe, with packets of how many bytes."""
        wanted = self._applied()
        near = segment.look(self._kernel.route, wanted, self._near)
        self._set_near(near)
        chosen = near if wanted.direct else {}
        return segment.targets(self._kernel.route, wanted, chosen), wanted.mtu

    def prove_near(self, answered: set[str]) -> None:
        near = {node: replace(entry, proven=node in answered) for node, entry in self._near.items()}
        changed = [node for node, entry in near.items() if entry.proven != self._near[node].proven]
        if changed:
            log.info(
                "direct routes nodes=%d of=%d changed=%s", len(answered), len(near), ",".join(changed[:8])
            )
        self._set_near(near)

    def _set_near(self, near: dict[str, Near]) -> None:
        """A link that was down has taken its routes with it: then everything is compared."""
        self.sweep()
        wanted, state = self._applied(), self._state
        if state is not None and state.direct and not self._kernel.has_direct(state.direct):
            state = self._state = None
        if near == self._near and state is not None:
            return
        self._near = near
        if state is None:
            self._apply_surely(wanted)
            return
        new = rules.with_near(state, wanted, self._device, near, mesh=MESH in self._features)
        self._state = None  # unknown until the change is complete
        _, self.left = self._kernel.change(state, new, self._device)
        self._state = new

    def _seal_wanted(self, wanted: Wanted) -> SealState:
        """The tunnels there should be: none where this kernel cannot make them."""
        return seal.desired(wanted) if seal.method_of(wanted) in self.seal_methods else SealState()

    def _seal(self, wanted: Wanted) -> SealState:
        """Make the tunnels. Where that fails nothing of encrypted networks leaves this node; the rest goes on."""
        assert self._sealer is not None
        method = seal.method_of(wanted)
        state = self._seal_wanted(wanted)
        before, self._seal_problem = self._seal_problem, ""
        try:
            if self._sealer.apply(state, seal.tunnel_mtu(wanted)):
                log.info("tunnels applied method=%s nodes=%d", method, len(state.reachable))
        except OverlayError as error:
            self._seal_problem = str(error)
            if self._seal_problem != before:
                log.error("tunnels not applied error=%s", error)
            return SealState()
        return state

    def _adopt(self, wanted: Wanted) -> None:
        """Learn from the kernel what pods there are, so that a restart changes nothing for them."""
        for pod_id, addresses in pods.adopted(self.pods(), wanted):
            self._addresses.setdefault(pod_id, addresses)

    def _forget_unreachable(self, removed: set[str], wanted: Wanted) -> int:
        """Forget connections to backends that left, and to all those of nodes that do not answer."""
        before = self._wanted
        alive = {node.id for node in wanted.nodes if not node.down}
        self._dead = [ip_network(block) for block in dead_blocks(wanted, alive)]
        was_alive = {node.id for node in before.nodes if not node.down} if before else set()
        if not removed and was_alive <= alive:
            return 0
        blocks = dead_blocks(before, alive) if before else ()
        return self._forget(removed, [*self._dead, *map(ip_network, blocks)])

    def _forget(self, removed: set[str], dead: list[Prefix]) -> int:
        """Forget tracked connections to backends that cannot answer any more."""
        led = self._led_udp(removed)
        if dead or (len(led) - 1) * PARSED_PER_DUMP > tracked_connections():
            entries = self._kernel.nft.connections()
        else:  # the kernel leaves out what is about others, but looks through all of its table each time
            entries = [entry for backend in sorted(led) for entry in self._kernel.nft.connections(backend)]
        lost = [entry for entry in entries if is_lost(entry, led, dead)]
        self._kernel.nft.forget(lost, IGNORED_WHEN_FORGETTING)
        for target, six in zip(rules.UDP_LED, ingress.SUFFIXES, strict=True):
            keys = [nfcodec.address(ip) for ip in led if ingress.suffix_of(ip) == six]
            self._kernel.nft.change_set(nfcodec.DELSETELEM, target, keys)
        return len(lost)

    def _led_udp(self, removed: set[str]) -> set[str]:
        """Those of the addresses that UDP flows were ever led to; the rules note that, see `skeleton`."""
        found: set[str] = set()
        for target, six in zip(rules.UDP_LED, ingress.SUFFIXES, strict=True):
            known = {nfcodec.address(ip): ip for ip in removed if ingress.suffix_of(ip) == six}
            found.update(known[key] for key in self._kernel.nft.among(target, known))
        return found

    def attach(self, pod_id: str, addresses: Addresses) -> Pod:
        pods.check_id(pod_id)
        wanted = self._applied()
        index = wanted.this_node.index
        own = (
            ipam.node_address(index, wanted.cluster_cidr),
            ipam.node_address6(index, wanted.prefix6) if wanted.prefix6 else "",
        )
        if not wanted.prefix6:
            addresses = tuple(entry for entry in addresses if ":" not in entry[1])
        internal = {network.id for network in wanted.networks if network.internal}
        existed = namespaces.is_pinned(self._directory / pod_id)
        try:
            mtu = seal.pod_mtu(wanted, {network_id for network_id, _, _ in addresses}, self.seal_methods)
            pod = pods.attach(
                self._kernel.route, self._directory / pod_id, pod_id, addresses, mtu, own, internal
            )
        except (OverlayError, ValueError) as error:
            if not existed:
                pods.detach(self._kernel.route, self._directory / pod_id, pod_id)
            raise OverlayError(f"cannot attach pod {pod_id}: {error}") from error
        self._set_addresses({**self._addresses, pod_id: addresses})
        return pod

    def detach(self, pod_id: str) -> None:
        pods.detach(self._kernel.route, self._directory / pod_id, pod_id)
        self._set_addresses({key: value for key, value in self._addresses.items() if key != pod_id})

    def _set_addresses(self, addresses: dict[str, Addresses]) -> None:
        """Only pods of several networks, and those a policy selects, need elements of their own."""
        before, self._addresses = self._addresses, addresses
        wanted = self._wanted
        if wanted is None:
            return
        special = [
            {
                key: value
                for key, value in each.items()
                if len(value) > 1 or policy.is_selected(wanted, key, value)
            }
            for each in (before, addresses)
        ]
        if special[0] != special[1]:
            self.sweep()
            self._apply_surely(wanted)

    def _applied(self) -> Wanted:
        if self._wanted is None:
            raise OverlayError("nothing is applied yet: apply the wanted network before attaching pods")
        return self._wanted

    def pods(self) -> dict[str, Pod]:
        return pods.found(self._kernel.route, self._directory)

    def verify(self) -> list[str]:
        self.sweep()
        wanted = self._applied()
        problems: list[str] = []
        present = links(self._kernel.route)
        problems += self._kernel.skeleton_problems(wanted)
        if rules.DEVICE not in present:
            problems.append(f"link {rules.DEVICE} is missing")
        elif not any(problem.startswith("the rules") for problem in problems):
            found = self._kernel.read(present[rules.DEVICE].index, wanted)
            previous = self._state.sets if self._state else found.sets
            tunnels = self._seal_wanted(wanted)
            self._device = present[rules.DEVICE].index
            want = self._desired(wanted, previous, tunnels)
            problems += differences(found, want)
            assert self._sealer is not None
            problems += seal.differences(self._sealer.read(), tunnels)
        problems += pods.problems(self.pods(), self._addresses)
        if problems:
            self._state = None
        return sorted(problems)

    def look(self) -> tuple[State, Wanted]:
        self.sweep()
        wanted = self._applied()
        present = links(self._kernel.route)
        if rules.DEVICE not in present:
            raise OverlayError(f"link {rules.DEVICE} is missing: run `swarmpy network verify --repair`")
        return self._kernel.read(present[rules.DEVICE].index, wanted), wanted

    def connections(self) -> list[Connection]:
        return self._kernel.nft.connections()

    def vip_counts(self) -> dict[str, int]:
        return self._kernel.vip_counts(self._applied())

    def repair(self) -> None:
        """Also what single pods need: attaching again completes what is there."""
        self.sweep()
        wanted = self._applied()
        self._state = None
        self._apply_surely(wanted)
        for pod_id, addresses in list(self._addresses.items()):
            if namespaces.is_pinned(self._directory / pod_id):
                self.attach(pod_id, addresses)

    def stop(self, teardown: bool) -> None:
        if self._opened is None:
            return
        try:
            self.sweep()
            if teardown:
                for pod_id in self.pods():
                    pods.detach(self._kernel.route, self._directory / pod_id, pod_id)
                assert self._sealer is not None
                self._sealer.apply(SealState(), MTU_MIN)
                self._kernel.remove_all()
                namespaces.remove_directory(self._directory)
        finally:
            if self._sealer is not None:
                self._sealer.close()
            self._kernel.close()
            self._sealer = None
            self._opened = self._wanted = self._state = None
            self._addresses = {}

"""The nftables writer of one node: the static skeleton as text, everything that changes as raw transactions.

`Nft` is the only place that changes nftables; it touches the tables `inet swarmpy` and `ip swarmpy-lb`
only, and nothing marks them as owned: rules must outlive the daemon.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Collection, Iterable, Mapping

from swarmpy.overlay import nfcodec
from swarmpy.overlay.errors import KernelRefused, OverlayError
from swarmpy.overlay.links import Socket, netfilter_socket
from swarmpy.overlay.nfcodec import Connection, Elements, Set

DEADLINE_S = 30
SINGLE_LOOKS_MAX = 64


class Nft:
    """nftables and connection tracking of the namespace of the thread that uses it."""

    def __init__(self) -> None:
        self._socket: Socket = netfilter_socket()

    def close(self) -> None:
        self._socket.close()

    def load(self, text: str) -> None:
        """Apply a ruleset text as one transaction."""
        try:
            done = subprocess.run(
                ["nft", "-f", "-"],
                input=text,
                text=True,
                capture_output=True,
                timeout=DEADLINE_S,
                check=False,
            )
        except FileNotFoundError:
            raise OverlayError("the program nft is missing: install the package nftables") from None
        except subprocess.TimeoutExpired:
            raise OverlayError(f"nft did not finish within {DEADLINE_S} s: is another nft hanging?") from None
        if done.returncode:
            raise OverlayError(f"nft refused the rules: {done.stderr.strip()}")

    def change(
        self,
        chains: Iterable[tuple[int, str, str]],
        sets: Mapping[str, Set],
        old: Mapping[str, Elements],
        new: Mapping[str, Elements],
    ) -> int:
        """Make balancing chains (family, table, name) and turn the sets' content from `old` into `new`.

        All in one transaction; returns how many messages that took.
        """
        messages = [message for chain in chains for message in nfcodec.balancing_chain(*chain)]
        messages += nfcodec.transaction(sets, old, new)
        self._socket.transact(nfcodec.batch_begin(), messages, nfcodec.batch_end())
        return len(messages)

    def change_elements(
        self,
        chains: Iterable[tuple[int, str, str]],
        sets: Mapping[str, Set],
        gone: Mapping[str, Elements],
        added: Mapping[str, Elements],
    ) -> int:
        """As `change`, when it is known what goes and what comes."""
        messages = [message for chain in chains for message in nfcodec.balancing_chain(*chain)]
        for name, elements in gone.items():
            messages += nfcodec.element_messages(nfcodec.DELSETELEM, sets[name], elements.items())
        for name, elements in added.items():
            messages += nfcodec.element_messages(nfcodec.NEWSETELEM, sets[name], elements.items())
        self._socket.transact(nfcodec.batch_begin(), messages, nfcodec.batch_end())
        return len(messages)

    def chains(self) -> set[tuple[str, str]]:
        """(table, chain) of all chains of the families in use but IPv6's."""
        return {
            (table, chain) for family, table, chain in self.all_chains() if family != nfcodec.NFPROTO_IPV6
        }

    def all_chains(self) -> set[tuple[int, str, str]]:
        """(family, table, chain)."""
        return {
            (family, *nfcodec.parse_chain(body))
            for family in (nfcodec.NFPROTO_INET, nfcodec.NFPROTO_IPV4, nfcodec.NFPROTO_IPV6)
            for body in self._socket.dump(nfcodec.chains_dump(family))
        }

    def rules(self, tables: Iterable[tuple[int, str]]) -> dict[tuple[str, str], list[bytes]]:
        """What the rules of each (table, chain) do, in order."""
        wanted = set(tables)
        found: dict[tuple[str, str], list[bytes]] = {}
        for family in sorted({family for family, _ in wanted}):
            for body in self._socket.dump(nfcodec.rules_dump(family)):
                table, chain, does = nfcodec.parse_rule(body)
                if (family, table) in wanted:
                    found.setdefault((table, chain), []).append(does)
        return found

    def drop_chain(self, family: int, table: str, chain: str) -> None:
        messages = [nfcodec.chain_delete(family, table, chain)]
        self._socket.transact(nfcodec.batch_begin(), messages, nfcodec.batch_end())

    def mark(self, family: int, table: str, chain: str) -> None:
        """Make an empty chain, for what its name says."""
        messages = [nfcodec.marker_chain(family, table, chain)]
        self._socket.transact(nfcodec.batch_begin(), messages, nfcodec.batch_end())

    def elements(self, target: Set) -> Elements:
        """The content of one set."""
        return {
            key: data
            for body in self._socket.dump(nfcodec.elements_dump(target))
            for key, data in nfcodec.parse_elements(body)
        }

    def counts(self, target: Set) -> dict[bytes, int]:
        """How often each element of a counting set was met."""
        return {
            key: packets
            for body in self._socket.dump(nfcodec.elements_dump(target))
            for key, packets in nfcodec.parse_counts(body)
        }

    def among(self, target: Set, keys: Collection[bytes]) -> list[bytes]:
        """Which of the keys a set has; none where there is no such set."""
        try:
            if len(keys) > SINGLE_LOOKS_MAX:
                return sorted(set(keys) & self.elements(target).keys())
            return [key for key in keys if self._has(target, key)]
        except KernelRefused as error:
            if error.errno != errno.ENOENT:
                raise
            return []

    def _has(self, target: Set, key: bytes) -> bool:
        try:
            return bool(self._socket.dump(nfcodec.element_get(target, key)))
        except KernelRefused as error:
            if error.errno != errno.ENOENT:
                raise
            return False

    def change_set(self, kind: int, target: Set, keys: Collection[bytes]) -> None:
        """Add (NEWSETELEM) or delete (DELSETELEM) elements of one plain set."""
        messages = list(nfcodec.element_messages(kind, target, ((key, None) for key in keys)))
        self._socket.transact(nfcodec.batch_begin(), messages, nfcodec.batch_end())

    def connections(self, backend: str = "") -> list[Connection]:
        """Every tracked connection, or those that `backend` answers."""
        families = (nfcodec.NFPROTO_IPV4, nfcodec.NFPROTO_IPV6)
        dumps = (
            [nfcodec.connections_dump(backend)] if backend else map(nfcodec.all_connections_dump, families)
        )
        found = (nfcodec.parse_connection(body) for dump in dumps for body in self._socket.dump(dump))
        return [connection for connection in found if connection is not None]

    def forget(self, connections: Iterable[Connection], ignore: tuple[int, ...]) -> None:
        """Delete tracked connections."""
        self._socket.send((nfcodec.connection_delete(connection) for connection in connections), ignore)

"""The real store behind the real log: three members, snapshots, one that was away; equal hashes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.checkpoint import Limits
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

from tests.integration.raft_cluster import Cluster, Ledger, wait_for


def put_service(number: int) -> bytes:
    service = objects_pb2.Service()
    service.meta.id = f"service{number:04}"
    service.meta.name = f"web{number}"
    service.spec.task.container.image = "web:1"
    return transaction([store_pb2.Change(put=wrap(service))], epoch=1, now_ms=1000 + number)


def test_stores_are_equal_after_snapshots(tmp_path: Path) -> None:
    async def main() -> None:
        cluster = Cluster(tmp_path, limits=Limits(snapshot_entries=40, trailing_entries=10))
        stores = {name: Store() for name in ("n1", "n2", "n3")}
        machine = {name: cast(Ledger, store) for name, store in stores.items()}
        try:
            leader = await cluster.start("n1", bootstrap=True, machine=machine["n1"])
            await wait_for(lambda: bool(cluster.led))
            for name in ("n2", "n3"):
                await cluster.start(name, machine=machine[name])
                await leader.add_member(name, cluster.address(name))
            first = store_pb2.Transaction(epoch=1, new_epoch=True, now_ms=1)
            await leader.propose(first.SerializeToString())
            await cluster.stop("n3")
            for number in range(100):
                applied = await leader.propose(put_service(number))
                result = store_pb2.TransactionResult.FromString(applied.result)
                assert not result.error_code, result.error
            stores["n3"] = Store()
            await cluster.start("n3", machine=cast(Ledger, stores["n3"]))
            await wait_for(lambda: len({store.state_hash() for store in stores.values()}) == 1)
            assert stores["n3"].service("service0099") is not None
        finally:
            await cluster.stop_all()
        assert cluster.fatal == []

    asyncio.run(main())

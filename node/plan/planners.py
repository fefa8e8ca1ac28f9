"""Every planner a leader runs."""

from __future__ import annotations

from swarmpy.node.plan.allocator import Allocator
from swarmpy.node.plan.autoscale import AutoscalePlanner
from swarmpy.node.plan.base import Planner
from swarmpy.node.plan.cron import CronPlanner
from swarmpy.node.plan.enforce import EnforcePlanner
from swarmpy.node.plan.global_ import GlobalPlanner
from swarmpy.node.plan.inventory import Inventory
from swarmpy.node.plan.jobs import JobsPlanner
from swarmpy.node.plan.nodes import NodesPlanner
from swarmpy.node.plan.ordered import OrderedPlanner
from swarmpy.node.plan.predeploy import PreDeployPlanner
from swarmpy.node.plan.preempt import PreemptionPlanner
from swarmpy.node.plan.reaper import Reaper
from swarmpy.node.plan.rebalance import RebalancePlanner
from swarmpy.node.plan.replicated import ReplicatedPlanner
from swarmpy.node.plan.roots import RootsPlanner
from swarmpy.node.plan.samples import Samples
from swarmpy.node.plan.scheduler import SchedulerPlanner
from swarmpy.node.plan.tokens import TokensPlanner
from swarmpy.node.plan.volume_moves import VolumesPlanner


def all_planners(samples: Samples | None = None) -> list[Planner]:
    """One of each, fresh: they keep nothing that a new leader could not work out from the store."""
    inventory = Inventory()
    inventory.samples = samples if samples is not None else inventory.samples
    return [
        Allocator(),
        NodesPlanner(),
        Reaper(),
        ReplicatedPlanner(inventory),
        GlobalPlanner(),
        OrderedPlanner(),
        JobsPlanner(),
        CronPlanner(),
        PreDeployPlanner(),
        SchedulerPlanner(inventory),
        PreemptionPlanner(inventory),
        EnforcePlanner(),
        VolumesPlanner(),
        RebalancePlanner(inventory),
        RootsPlanner(),
        TokensPlanner(),
        AutoscalePlanner(inventory.samples),
    ]

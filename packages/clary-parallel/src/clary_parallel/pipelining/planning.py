"""One plan for all ranks: the first rank reads or writes the file of a plan, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clary_parallel.graph import Graph
from clary_parallel.partitioning import Plan, make_plan, pins_from_file, save_plan
from clary_parallel.transport import Transport


def plan_for_all(
    graph: Graph,
    partitions: int,
    ranks: Transport,
    partition_file: str | Path | None,
    load_partition: bool,
    **options: Any,
) -> Plan:
    """Make a plan, or take the one of a file. Collective.

    Args:
        graph: The operations, the same on every rank.
        partitions: How many stages.
        ranks: All ranks of the job; the first one's file counts.
        partition_file: Where a plan is written to, or read from.
        load_partition: Whether it is read.
        options: Further arguments of `make_plan`; pins and contiguous play no part where a plan is read.

    Raises:
        PlanFileError: The file does not fit.
        ValueError: There is no such plan.
    """
    if not load_partition or partition_file is None:
        plan = make_plan(graph, partitions, **options)
        if partition_file is not None and ranks.rank == 0:
            save_plan(plan, Path(partition_file))
        return plan
    told: Mapping[str, int] | ValueError | None = None
    if ranks.rank == 0:
        try:
            told = pins_from_file(Path(partition_file), graph, partitions)
        except ValueError as error:
            told = error
    told = ranks.broadcast_object(told)
    if isinstance(told, ValueError):
        raise told
    return make_plan(
        graph,
        partitions,
        optimize=options.get("optimize", "memory"),
        memory_weight=options.get("memory_weight"),
        pins=told,
        auto_partition=False,
    )

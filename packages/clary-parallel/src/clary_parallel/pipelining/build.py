"""From a Keras model to one that trains over a pipeline: analyse, partition, place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clary_parallel.analyse import measure_operations, pins_of, trace_model, with_seconds
from clary_parallel.data import world
from clary_parallel.partitioning import place
from clary_parallel.partitioning.plan import Optimize
from clary_parallel.pipelining.engine import Settings
from clary_parallel.pipelining.held import describe_model
from clary_parallel.pipelining.holding import Hold
from clary_parallel.pipelining.layout import lay_out
from clary_parallel.pipelining.model import PipelineModel
from clary_parallel.pipelining.planning import plan_for_all
from clary_parallel.schedule import make_schedule
from clary_parallel.transport import Transport


def pipeline(
    model: Any,
    partitions: int,
    microbatches: int = 1,
    *,
    schedule: str = "interleaved",
    virtual: int = 1,
    optimize: Optimize = "memory",
    memory_weight: float | None = None,
    pins: Mapping[str, int] | None = None,
    auto_partition: bool = True,
    default_partition: int = 0,
    contiguous: bool = True,
    partition_file: str | Path | None = None,
    load_partition: bool = False,
    placement_strategy: str = "cluster",
    hold: Hold = "all",
    microbatch_size: int = 1,
    recompute: bool = False,
    profile: bool | None = None,
    transport: Transport | None = None,
) -> PipelineModel:
    """Make a model train over several ranks, each with a part of it. Every rank calls it, with the same model.

    Args:
        model: A function that builds a Keras 3 model: each rank then makes the weights of its own stages only, with the
            values that they would have in one process. Or a model: Sequential, functional, or subclassed (called once
            before), see `hold`.
        partitions: Parts of the model. The number of ranks is a multiple of it; what is more trains replicas.
        microbatches: Parts into which each batch is cut. Where it does not divide the batch, parts differ by one
            example; results stay those of the whole batch.
        schedule: "interleaved" (1F1B), "simple" (GPipe), "zero_bubble" or "_only_forward".
        virtual: Stages a rank; more than one makes the bubble smaller, for "interleaved" only.
        optimize: "memory" or "speed": what to balance, see `partitioning.make_plan`.
        memory_weight: Another weight of memory, from 0 to 1.
        pins: Partition of layers, by name; besides those of `clary_parallel.partition` blocks.
        auto_partition: Whether to choose partitions for layers that are not pinned.
        default_partition: Where they go otherwise.
        contiguous: Whether each stage is a run of operations in an order in which the model runs, see
            `partitioning.make_plan`.
        partition_file: Where the plan is written, by the first rank; or read from, so that a later run cuts alike.
        load_partition: Whether the plan is read from `partition_file`.
        placement_strategy: How partitions and replicas are placed on ranks, see `partitioning.place`.
        hold: What each rank holds of a model that has weights already: "all" of them, so that the model itself can be
            used after training; or its "own" stages', and the memory of the others is free again (beginning with a
            model that fits into each rank, and leaving the model itself unusable elsewhere). Of a model that a function
            builds, a rank never holds more than its own.
        microbatch_size: Examples of a micro-batch, for the sizes of the plan.
        recompute: Keep no intermediate results from the forward; the backward computes them again, for a third more
            arithmetic and far less memory.
        profile: Whether to measure the time of each operation, on the first rank, before partitioning; by default if
            optimize="speed". Otherwise times are estimated from shapes.
        transport: The ranks; by default those that the launcher started (`mpirun`).

    Returns:
        A model to `compile`, `fit`, `evaluate`, `predict` and `save`.

    Raises:
        UntraceableError: The model's graph cannot be read.
        PlanFileError: The plan of `partition_file` is another model's.
        ValueError: The plan, the schedule or the number of ranks is impossible; the message says how.

    Example:
        model = clary_parallel.pipeline(build_model, partitions=2, microbatches=8)
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y)
    """
    make_schedule(schedule, partitions, microbatches, virtual)
    if hold not in ("all", "own"):
        raise ValueError(f'A rank holds "all" weights of a model or its "own". Received: hold={hold!r}.')
    if load_partition and partition_file is None:
        raise ValueError("load_partition=True needs a partition_file to load from. Received: partition_file=None.")
    ranks = transport or _connect()
    groups = place(ranks.size, partitions, placement_strategy)
    if not hasattr(model, "layers"):
        model = describe_model(model)
    traced = trace_model(model, microbatch_size)
    if optimize == "speed" if profile is None else profile:
        # All ranks must cut alike, so one of them measures.
        seconds = measure_operations(traced, microbatch_size) if ranks.rank == 0 else None
        traced = with_seconds(traced, ranks.broadcast_object(seconds))
    plan = plan_for_all(
        traced.graph,
        partitions * virtual,
        ranks,
        partition_file,
        load_partition,
        optimize=optimize,
        memory_weight=memory_weight,
        pins={**pins_of(traced), **(pins or {})},
        auto_partition=auto_partition,
        default_partition=default_partition,
        contiguous=contiguous,
    )
    mine = next(group for group in groups if ranks.rank in group)
    own = ranks if len(groups) == 1 else _group(ranks, mine)
    replicas = None
    if len(groups) > 1:
        replicas = _group(ranks, [group[mine.index(ranks.rank)] for group in groups])
    layouts = lay_out(traced, plan.stage_of, partitions * virtual)
    settings = Settings(partitions, microbatches, schedule, virtual, recompute)
    return PipelineModel(model, traced, plan, layouts, settings, own, replicas, hold)


def _group(ranks: Transport, members: list[int]) -> Transport:
    group = ranks.group(members)
    if group is None:
        raise ValueError(f"Rank {ranks.rank} is not in its own group {members}.")
    return group


def _connect() -> Transport:
    world.init()
    return world.transport()

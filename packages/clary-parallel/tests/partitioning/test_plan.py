"""Plans against brute force on small graphs, the promises on large ones, and pins."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, product
from math import inf

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clary_parallel.graph import Graph, Operation, lines
from clary_parallel.partitioning import PinError, make_plan, plan_from_assignment
from clary_parallel.partitioning.plan import Loads, Plan, operation_loads

sizes = st.integers(0, 50)
speeds = st.sampled_from([inf, 100.0, 10.0, 1.0])
"""Bytes a second over a boundary: exchange costs nothing, little beside these graphs' times, or much."""


@st.composite
def chains(draw: st.DrawFn, most: int = 9) -> Graph:
    count = draw(st.integers(1, most))
    return Graph(
        tuple(
            Operation(f"op{i}", (i - 1,) if i else (), draw(sizes), draw(sizes), draw(sizes), float(draw(sizes)))
            for i in range(count)
        ),
        (count - 1,),
    )


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> Graph:
    count = draw(st.integers(1, most))
    operations = [
        Operation(
            f"op{i}",
            tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))) if i else (),
            draw(sizes),
            draw(sizes),
            draw(sizes),
            float(draw(sizes)),
        )
        for i in range(count)
    ]
    together = ()
    if count >= 3 and draw(st.booleans()):
        together = (tuple(sorted(draw(st.sets(st.integers(0, count - 1), min_size=2, max_size=3)))),)
    return Graph(tuple(operations), (count - 1,), together)


def ordered_assignments(graph: Graph, partitions: int) -> Iterator[Sequence[int]]:
    """Every way to put operations into stages that runs in order and leaves none empty."""
    for stage_of in product(range(partitions), repeat=len(graph.operations)):
        in_order = all(stage_of[s] <= stage_of[i] for i, item in enumerate(graph.operations) for s in item.inputs)
        together = all(len({stage_of[i] for i in group}) == 1 for group in graph.together)
        if in_order and together and len(set(stage_of)) == partitions:
            yield stage_of


def runs_in_order(plan: Plan) -> bool:
    return all(
        plan.stage_of[source] <= plan.stage_of[index]
        for index, operation in enumerate(plan.graph.operations)
        for source in operation.inputs
        if plan.stage_of[source] >= 0
    )


@given(
    graph=chains(),
    partitions=st.integers(1, 4),
    slack=st.sampled_from([0.0, 0.05, 0.5]),
    weight=st.floats(0, 1),
    speed=speeds,
)
@settings(max_examples=300, deadline=None)
def test_on_a_chain_no_plan_is_better(graph: Graph, partitions: int, slack: float, weight: float, speed: float):
    count = len(graph.operations)
    assume(count >= partitions)
    loads = operation_loads(graph, partitions, weight, speed)
    every = []
    for starts in combinations(range(1, count), partitions - 1):
        stage_of = [sum(index >= start for start in starts) for index in range(count)]
        made = plan_from_assignment(graph, stage_of, partitions, loads)
        every.append((made.heaviest, sum(stage.sent_bytes for stage in made.stages)))
    lightest = min(heaviest for heaviest, _ in every)
    fewest = min(sent for heaviest, sent in every if heaviest <= lightest * (1 + slack) + 1e-9)

    plan = make_plan(graph, partitions, memory_weight=weight, slack=slack, bytes_a_second=speed)

    assert plan.exact
    assert plan.heaviest <= lightest * (1 + slack) + 1e-9
    if loads.a_byte == 0.0:
        assert sum(stage.sent_bytes for stage in plan.stages) <= fewest
    assert plan.bound <= lightest + 1e-9


@given(graph=graphs(), partitions=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_elsewhere_a_plan_keeps_its_bound(graph: Graph, partitions: int):
    blocks = lines(graph)[0].blocks
    assume(len(blocks) >= partitions)
    loads = operation_loads(graph, partitions, 0.5, inf)
    heaviest_block = max(loads.operations[list(block)].sum() for block in blocks)
    best = min(
        plan_from_assignment(graph, stage_of, partitions, loads).heaviest
        for stage_of in ordered_assignments(graph, partitions)
    )

    plan = make_plan(graph, partitions, memory_weight=0.5, slack=0.0, bytes_a_second=inf)

    assert runs_in_order(plan)
    assert plan.bound - 1e-9 <= best <= plan.heaviest + 1e-9
    assert plan.heaviest <= 1 / partitions + heaviest_block + 1e-9
    assert all(len({plan.stage_of[i] for i in group}) == 1 for group in graph.together)


@given(graph=graphs(), partitions=st.integers(1, 3), slack=st.sampled_from([0.0, 0.1]), speed=speeds)
@settings(max_examples=150, deadline=None)
def test_what_need_not_be_contiguous_is_the_best_of_all_plans(
    graph: Graph, partitions: int, slack: float, speed: float
):
    assume(len(lines(graph)[0].blocks) >= partitions)
    loads = operation_loads(graph, partitions, 0.5, speed)
    every = []
    for stage_of in ordered_assignments(graph, partitions):
        made = plan_from_assignment(graph, stage_of, partitions, loads)
        every.append((made.heaviest, sum(stage.sent_bytes for stage in made.stages)))
    lightest = min(heaviest for heaviest, _ in every)
    fewest = min(sent for heaviest, sent in every if heaviest <= lightest * (1 + slack) + 1e-9)

    plan = make_plan(graph, partitions, memory_weight=0.5, slack=slack, contiguous=False, bytes_a_second=speed)

    assert plan.exact
    assert runs_in_order(plan)
    assert plan.heaviest <= lightest * (1 + slack) + 1e-9
    assert sum(stage.sent_bytes for stage in plan.stages) <= fewest
    assert all(len({plan.stage_of[i] for i in group}) == 1 for group in graph.together)


@given(graph=graphs(), partitions=st.integers(1, 3), speed=speeds)
@settings(max_examples=150, deadline=None)
def test_what_is_contiguous_is_the_best_of_the_runs_of_its_lines(graph: Graph, partitions: int, speed: float):
    assume(len(lines(graph)[0].blocks) >= partitions)
    loads = operation_loads(graph, partitions, 0.5, speed)
    runs = {}
    for line in lines(graph):
        for starts in combinations(range(1, len(line.blocks)), partitions - 1):
            stage_of = [-1] * len(graph.operations)
            for stage, (begin, end) in enumerate(pairwise([0, *starts, len(line.blocks)])):
                for index in (index for block in line.blocks[begin:end] for index in block):
                    stage_of[index] = stage
            runs[tuple(stage_of)] = plan_from_assignment(graph, stage_of, partitions, loads).heaviest

    plan = make_plan(graph, partitions, memory_weight=0.5, slack=0.0, contiguous=True, bytes_a_second=speed)

    assert plan.stage_of in runs
    assert plan.heaviest <= min(runs.values()) + 1e-9


@given(graph=graphs(6), partitions=st.integers(1, 3), data=st.data())
@settings(max_examples=100, deadline=None)
def test_pins_are_kept_where_nothing_need_be_contiguous(graph: Graph, partitions: int, data: st.DataObject):
    names = data.draw(st.sets(st.sampled_from([item.name for item in graph.operations])))
    pins = {name: data.draw(st.integers(0, partitions - 1)) for name in sorted(names)}
    possible = [
        stage_of
        for stage_of in ordered_assignments(graph, partitions)
        if all(stage_of[graph.index(name)] == stage for name, stage in pins.items())
    ]
    if not possible:
        with pytest.raises(ValueError, match=r"\w"):
            make_plan(graph, partitions, pins=pins, contiguous=False)
        return
    plan = make_plan(graph, partitions, pins=pins, contiguous=False, slack=0.0, memory_weight=0.5)
    loads = operation_loads(graph, partitions, 0.5)
    assert plan.stage_of in possible
    assert plan.heaviest <= 1e-9 + min(
        plan_from_assignment(graph, stage_of, partitions, loads).heaviest for stage_of in possible
    )


def test_a_wide_graph_is_no_worse_where_nothing_need_be_contiguous():
    # 40 branches beside each other have 2**40 closed sets.
    rng = np.random.default_rng(0)
    branches = [Operation(f"branch{i}", (0,), 0, 1, 0, float(rng.integers(1, 100))) for i in range(40)]
    last = Operation("join", tuple(range(1, 41)), 0, 1, 0, 1.0)
    graph = Graph((Operation("stem", (), 0, 1, 0, 1.0), *branches, last), (41,))

    runs, free = (make_plan(graph, 4, memory_weight=0.0, contiguous=contiguous) for contiguous in (True, False))

    assert runs_in_order(free)
    assert not free.exact
    assert free.heaviest < runs.heaviest
    assert free.heaviest < 1.05 / 4


@given(graph=graphs(6))
@settings(max_examples=100, deadline=None)
def test_each_line_counts_what_crosses_its_boundaries(graph: Graph):
    for line in lines(graph):
        assert sorted(i for block in line.blocks for i in block) == list(range(len(graph.operations)))
        if len(line.blocks) < 2:
            continue
        for boundary in range(1, len(line.blocks)):
            stage_of = [0] * len(graph.operations)
            for block in line.blocks[boundary:]:
                for index in block:
                    stage_of[index] = 1
            plan = plan_from_assignment(graph, stage_of, 2, Loads(np.ones(len(graph.operations))))
            assert runs_in_order(plan)
            assert plan.stages[0].sent_bytes == line.cut_bytes[boundary]


def skipping() -> Graph:
    """A chain of six with a skip from the first operation to the last."""
    operations = [Operation(f"op{i}", (i - 1,) if i else (), 10, 100, 10, 1.0) for i in range(5)]
    return Graph((*operations, Operation("join", (4, 0), 10, 1, 10, 1.0)), (5,))


def test_a_skip_over_several_stages_is_counted_at_each_boundary():
    plan = make_plan(skipping(), 3)

    assert [stage.sent_bytes for stage in plan.stages] == [200, 200, 0] or plan.stages[0].sent_bytes == 100
    assert plan.stages[1].sent_bytes == 200


def test_an_input_that_every_rank_has_is_in_no_stage_and_never_sent():
    graph = Graph(
        (
            Operation("input", output_bytes=1000, replicated=True),
            Operation("a", (0,), 10, 5),
            Operation("b", (1, 0), 10, 5),
        ),
        (2,),
    )
    plan = make_plan(graph, 2)

    assert plan.stage_of == (-1, 0, 1)
    assert plan.stages[0].sent_bytes == 5


def test_shared_weights_keep_what_lies_between_them_together():
    graph = Graph(
        tuple(Operation(f"op{i}", (i - 1,) if i else (), 1, 1, 1, 1.0) for i in range(6)), (5,), together=((1, 3),)
    )
    assert lines(graph)[0].blocks == ((0,), (1, 2, 3), (4,), (5,))
    plan = make_plan(graph, 3)
    assert plan.stage_of[1] == plan.stage_of[2] == plan.stage_of[3]
    with pytest.raises(ValueError, match=r"4 operations that can be parted, fewer than partitions=5.*share weights"):
        make_plan(graph, 5)


def test_pins_are_kept_and_the_rest_is_balanced_around_them():
    graph = Graph(tuple(Operation(f"op{i}", (i - 1,) if i else (), 1, 1, 1, 1.0) for i in range(12)), (11,))

    plan = make_plan(graph, 3, pins={"op1": 1, "op9": 1})

    assert plan.stage_of == (0, *[1] * 9, 2, 2)


@given(graph=graphs(6), partitions=st.integers(1, 3), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_pins_are_kept_or_refused(graph: Graph, partitions: int, data: st.DataObject):
    names = data.draw(st.sets(st.sampled_from([item.name for item in graph.operations])))
    pins = {name: data.draw(st.integers(0, partitions - 1)) for name in sorted(names)}
    try:
        plan = make_plan(graph, partitions, pins=pins)
    except ValueError:
        if any(
            all(stage_of[graph.index(n)] == s for n, s in pins.items())
            for stage_of in ordered_assignments(graph, partitions)
        ):
            # Refused though there is a way: only where the way is not along the lines that are tried.
            assert not lines(graph)[0].is_chain
        return
    assert runs_in_order(plan)
    assert all(plan.stage_of[graph.index(name)] == stage for name, stage in pins.items())


def test_what_needs_a_block_that_is_pinned_in_part_comes_after_it():
    operations = [Operation(f"op{i}", (0,) if i == 3 else (), 1, 1, 1, 1.0) for i in range(6)]
    plan = make_plan(Graph(tuple(operations), (5,), together=((0, 1, 2),)), 2, pins={"op1": 1})

    assert plan.stage_of[:4] == (1, 1, 1, 1)
    assert runs_in_order(plan)


def test_pins_that_contradict_the_order_are_refused_by_name():
    graph = skipping()
    with pytest.raises(PinError, match=r"'op3' is pinned to partition 0, but needs 'op1', which is pinned .* 1"):
        make_plan(graph, 2, pins={"op1": 1, "op3": 0})
    with pytest.raises(PinError, match=r"no operation 'joi'. Did you mean one of join"):
        make_plan(graph, 2, pins={"joi": 1})
    with pytest.raises(PinError, match="partition 2; there are 2"):
        make_plan(graph, 2, pins={"op1": 2})


def test_without_auto_partition_operations_go_where_they_are_told_or_to_the_default():
    graph = skipping()
    pins = {"op3": 1, "op4": 1, "join": 1}

    assert make_plan(graph, 2, pins=pins, auto_partition=False).stage_of == (0, 0, 0, 1, 1, 1)
    with pytest.raises(PinError, match=r"'join' falls into the default partition 0, but needs 'op4' of the later"):
        make_plan(graph, 2, pins={"op3": 1, "op4": 1}, auto_partition=False)
    with pytest.raises(ValueError, match="Partition 1 of 2 has no operation"):
        make_plan(graph, 2, auto_partition=False)
    with pytest.raises(ValueError, match="default_partition"):
        make_plan(graph, 2, auto_partition=False, default_partition=2)


def test_more_partitions_than_operations_are_refused():
    with pytest.raises(ValueError, match="6 operations that can be parted, fewer than partitions=7"):
        make_plan(skipping(), 7)


def test_unknown_goals_are_refused():
    with pytest.raises(ValueError, match="optimize='size'"):
        make_plan(skipping(), 2, optimize="size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_weight=2"):
        make_plan(skipping(), 2, memory_weight=2)


def test_memory_and_speed_give_different_plans():
    heavy_then_slow = Graph(
        tuple(Operation(f"op{i}", (i - 1,) if i else (), 100 if i < 4 else 1, 1, 0, 1.0) for i in range(12)), (11,)
    )
    by_memory = make_plan(heavy_then_slow, 2, memory_weight=1.0).stages[0].operations
    by_time = make_plan(heavy_then_slow, 2, memory_weight=0.0).stages[0].operations

    assert (len(by_memory), len(by_time)) == (2, 6)


def test_a_stage_s_time_counts_what_it_hands_on_and_takes_back():
    sent = [0, 4_000_000, 1_000, 4_000_000, 0, 0]
    graph = Graph(
        tuple(Operation(f"op{i}", (i - 1,) if i else (), 0, size, 0, 0.010) for i, size in enumerate(sent)), (5,)
    )

    def cut(**options: float) -> list[int]:
        plan = make_plan(graph, 2, memory_weight=0.0, **options)
        return [len(stage.operations) for stage in plan.stages]

    # 4 MB there and back take 4 ms at 2 GB/s on either side; one operation more takes 10 ms.
    assert cut() == [3, 3]
    wide = Graph((*graph.operations[:2], Operation("op2", (1,), 0, 40_000_000, 0, 0.010), *graph.operations[3:]), (5,))
    plans = [make_plan(wide, 2, memory_weight=0.0, bytes_a_second=speed) for speed in (inf, 2e9)]
    assert [len(plan.stages[0].operations) for plan in plans] == [3, 2]
    # 20 ms of its operations and 4 ms of exchange against 40 and 4, of 60 in all.
    assert plans[1].heaviest == pytest.approx(44 / 60)


def test_ten_thousand_operations_are_cut_into_64_stages():
    rng = np.random.default_rng(0)
    operations = [
        Operation(
            f"op{i}",
            tuple({i - 1, max(0, i - int(rng.integers(1, 30)))}) if i else (),
            int(rng.integers(1000)),
            int(rng.integers(1000)),
            int(rng.integers(1000)),
            float(rng.random()),
        )
        for i in range(10_000)
    ]
    plan = make_plan(Graph(tuple(operations), (9999,)), 64)

    assert plan.heaviest <= 1.06 / 64
    assert runs_in_order(plan)


def test_a_graph_that_cannot_run_in_its_order_is_refused():
    with pytest.raises(ValueError, match=r"'a' .* must take outputs of earlier operations"):
        Graph((Operation("a", (0,)),), (0,))
    with pytest.raises(ValueError, match="Two operations are called 'a'"):
        Graph((Operation("a"), Operation("a")), (0,))


def test_stages_beside_one_heavy_operation_are_evened_out():
    operations = [Operation(f"op{i}", (i - 1,) if i else (), 0, 1, 0, 1.0) for i in range(12)]
    graph = Graph((*operations, Operation("heavy", (11,), 0, 1, 0, 30.0)), (12,))

    assert [len(stage.operations) for stage in make_plan(graph, 4, optimize="speed").stages] == [4, 4, 4, 1]

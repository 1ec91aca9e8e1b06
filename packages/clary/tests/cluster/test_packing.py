"""Which machine each host goes to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clary.cluster.base import Node, Placement, Resources
from clary.cluster.packing import pack

GIB = 1024**3


def node(name: str, cpus: float, gib: float = 64, gpus: int = 0) -> Node:
    return Node(name, Resources(cpus=cpus, memory_bytes=int(gib * GIB), gpus=gpus))


def cpus(amount: float, gpus: int = 0) -> Resources:
    return Resources(cpus=amount, memory_bytes=GIB, gpus=gpus)


def test_hosts_spread_over_the_emptiest_machines() -> None:
    placed = pack([node("a", 4), node("b", 5)], [cpus(3), cpus(3)], ())
    assert placed is not None
    assert {placement.node for placement in placed} == {"a", "b"}


def test_a_large_host_is_not_crowded_out_by_small_ones() -> None:
    placed = pack([node("a", 2), node("b", 8)], [cpus(2), cpus(8)], ())
    assert placed is not None
    assert [placement.node for placement in placed] == ["a", "b"]


def test_each_host_gets_gpus_of_its_own() -> None:
    placed = pack([node("a", 8, gpus=4)], [cpus(1, gpus=2), cpus(1, gpus=1)], ())
    assert placed is not None
    indices = [index for placement in placed for index in placement.gpu_indices]
    assert sorted(indices) == [0, 1, 2]


def test_gpus_that_are_taken_are_passed_over() -> None:
    taken = Placement("a", cpus(1, gpus=1), gpu_indices=(0,))
    placed = pack([node("a", 8, gpus=2)], [cpus(1, gpus=1)], (taken,))
    assert placed is not None
    assert placed[0].gpu_indices == (1,)
    assert pack([node("a", 8, gpus=2)], [cpus(1, gpus=2)], (taken,)) is None


def test_parts_of_a_gpu_share_one_and_leave_the_others_whole() -> None:
    half = Resources(cpus=1, memory_bytes=GIB, gpus=0.5)
    machine = node("a", 8, gpus=2)
    placed = pack([machine], [half, half, cpus(1, gpus=1)], ())
    assert placed is not None
    assert placed[0].gpu_indices == placed[1].gpu_indices != placed[2].gpu_indices
    assert pack([machine], [half], placed) is None
    assert pack([machine], [cpus(1, gpus=1)], placed[:2]) is not None
    assert pack([machine], [cpus(1, gpus=2)], placed[:1]) is None


def test_shares_of_a_cpu_add_up_to_the_whole() -> None:
    assert pack([node("a", 1)], [cpus(0.1)] * 10, ()) is not None


@given(
    st.lists(st.tuples(st.floats(0.25, 16), st.integers(1, 64), st.integers(0, 4)), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(1, 32), st.integers(1, 128), st.integers(0, 8)), min_size=1, max_size=4),
)
def test_no_machine_is_given_more_than_it_has(
    wanted: list[tuple[float, int, int]], machines: list[tuple[float, int, int]]
) -> None:
    nodes = [node(str(number), *machine) for number, machine in enumerate(machines)]
    asked = [Resources(cpus=c, memory_bytes=m * GIB, gpus=g) for c, m, g in wanted]
    placed = pack(nodes, asked, ())
    if placed is None:
        return
    assert [placement.resources for placement in placed] == asked
    for machine in nodes:
        here = [placement for placement in placed if placement.node == machine.name]
        assert sum(placement.resources.cpus for placement in here) <= machine.total.cpus + 1e-3
        assert sum(placement.resources.memory_bytes for placement in here) <= machine.total.memory_bytes
        indices = [index for placement in here for index in placement.gpu_indices]
        assert len(indices) == len(set(indices)) <= machine.total.gpus

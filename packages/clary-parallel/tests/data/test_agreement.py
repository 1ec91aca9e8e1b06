"""Ranks that do different things are told so, all of them, instead of waiting for each other."""

from __future__ import annotations

import numpy as np
import pytest

from clary_parallel.data.agreement import Agreement, Call
from clary_parallel.errors import Disagreement
from clary_parallel.transport.base import Transport
from clary_parallel.transport.inprocess import run_threads
from parallel_lab import run_ranks


def call(*shape: int, what: str = "gradients") -> Call:
    return Call("allreduce", what, (("float32", shape),))


def told(calls: list[Call]) -> list[str]:
    """What each rank is told when rank i makes calls[i]."""

    def program(transport: Transport) -> str:
        agreement = Agreement(transport)
        agreement.agree(call(1))
        with pytest.raises(Disagreement) as caught:
            agreement.agree(calls[transport.rank])
        return str(caught.value)

    return run_threads(len(calls), program, patience=20)


def test_equal_calls_agree() -> None:
    def program(transport: Transport) -> None:
        for step in range(5):
            Agreement(transport).agree(call(step))

    run_threads(3, program, patience=20)


def test_different_shapes_are_shown_by_rank() -> None:
    first, second = told([call(3, 4), call(3, 5)])
    assert first == second
    assert "rank 0: allreduce gradients (float32[3, 4])" in first
    assert "rank 1: allreduce gradients (float32[3, 5])" in first


def test_different_calls_are_shown_by_rank() -> None:
    message = told([call(3), Call("broadcast", "variables"), call(3)])[2]
    assert "rank 1: broadcast variables" in message
    assert "`if rank() == 0`" in message


def test_a_rank_that_joined_takes_part_until_all_have() -> None:
    def program(transport: Transport) -> tuple[int, list[Call]]:
        agreement = Agreement(transport)
        seen: list[Call] = []
        for step in range(2 * transport.rank):
            agreement.agree(call(step))
            transport.allreduce(np.ones(1))

        def take_part(others: Call) -> None:
            seen.append(others)
            transport.allreduce(np.zeros(1))

        return agreement.join(take_part), seen

    results = run_threads(3, program, patience=20)
    assert {last for last, _ in results} == {2}
    assert [len(seen) for _, seen in results] == [4, 2, 0]
    assert results[0][1] == [call(step) for step in range(4)]


def test_ranks_may_leave_at_different_times() -> None:
    def program(transport: Transport) -> None:
        agreement = Agreement(transport)
        agreement.agree(call(1))
        agreement.leave()

    run_threads(3, program, patience=20)


@pytest.mark.slow
def test_a_rank_whose_program_ends_early_is_named_to_the_others() -> None:
    program = """
from clary_parallel.data import world
from clary_parallel.data.agreement import Call
world.init()
for step in range(3 - world.rank()):
    world.agreement().agree(Call("allreduce", "gradients"))
"""
    ended = run_ranks(program, 2, timeout=60)
    assert ended.code != 0
    assert "rank 1: the end of its program" in ended.errors
    assert "Do all ranks make the same number of steps?" in ended.errors


@pytest.mark.slow
def test_ranks_that_end_together_end_well() -> None:
    program = "from clary_parallel.data import world\nworld.init()\nassert world.size() == 2"
    ended = run_ranks(program, 2, timeout=60)
    assert (ended.code, ended.errors) == (0, "")

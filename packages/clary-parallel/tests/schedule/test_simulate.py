"""The simulator's times, memory and refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clary_parallel.schedule import SCHEDULES, Costs, Schedule, Work, interleaved, interleaved_virtual, simple, simulate


def reference_step_time(schedule: Schedule, costs: Costs) -> float:
    """The same rules, action by action."""
    orders = [list(schedule.actions(rank)) for rank in range(schedule.ranks)]
    forward, backward = (
        np.broadcast_to(costs.forward, schedule.stages),
        np.broadcast_to(costs.backward, schedule.stages),
    )
    delay = costs.communication if schedule.ranks > 1 else 0.0
    done: dict[tuple[int, int, int], float] = {}
    at, free = [0] * schedule.ranks, [0.0] * schedule.ranks
    forwards = [sum(action.work is Work.FORWARD for action in order) for order in orders]
    while any(at[rank] < len(orders[rank]) for rank in range(schedule.ranks)):
        for rank in range(schedule.ranks):
            if at[rank] == len(orders[rank]):
                continue
            stage, microbatch, work = orders[rank][at[rank]]
            needed = {Work.FORWARD: (stage - 1, microbatch, Work.FORWARD), Work.BACKWARD: (stage + 1, microbatch, work)}
            need = needed.get(work)
            if need is None or not 0 <= need[0] < schedule.stages:
                arrived = 0.0
            elif need in done:
                arrived = done[need] + delay
            else:
                continue
            cost = {Work.FORWARD: forward[stage], Work.BACKWARD: backward[stage], Work.WEIGHT: costs.weight}[work]
            if work is Work.BACKWARD and schedule.splits_backward:
                cost -= costs.weight
            free[rank] = max(free[rank], arrived) + cost + costs.overhead
            forwards[rank] -= work is Work.FORWARD
            hurries = costs.inputs_first and work is Work.BACKWARD and not forwards[rank]
            early = costs.weight if hurries and not schedule.splits_backward else 0.0
            done[stage, microbatch, work] = free[rank] - early
            at[rank] += 1
    return max(free)


@pytest.mark.parametrize("name", SCHEDULES)
@given(ranks=st.integers(1, 6), microbatches=st.integers(1, 12), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_rounds_give_the_times_of_a_simulation_action_by_action(name, ranks, microbatches, data):
    schedule = SCHEDULES[name](ranks, microbatches)
    times = st.lists(st.floats(1, 5), min_size=schedule.stages, max_size=schedule.stages).map(np.array)
    costs = Costs(
        forward=data.draw(times),
        backward=data.draw(times) + 1,
        weight=1.0,
        communication=data.draw(st.floats(0, 3)),
        overhead=data.draw(st.floats(0, 1)),
        inputs_first=data.draw(st.booleans()),
    )

    assert simulate(schedule, costs).step_time == pytest.approx(reference_step_time(schedule, costs))


def test_memory_counts_what_each_rank_holds():
    costs = Costs(activation_bytes=10.0, weight_bytes=100.0)

    assert simulate(simple(2, 8), costs).peak_bytes.tolist() == [180.0, 180.0]
    assert simulate(interleaved(2, 8), costs).peak_bytes.tolist() == [120.0, 110.0]
    assert simulate(interleaved_virtual(2, 8, 2), costs).peak_bytes.tolist() == [250.0, 230.0]


def test_communication_delays_who_receives_and_not_who_sends():
    without, with_delay = simulate(interleaved(2, 1)), simulate(interleaved(2, 1), Costs(communication=0.5))

    assert with_delay.step_time == without.step_time + 1.0
    assert simulate(interleaved(1, 4), Costs(communication=0.5)).step_time == 12.0
    assert with_delay.sent == 2


def test_gradients_that_go_on_before_those_of_weights_shorten_the_end_of_a_step():
    whole, sooner = simulate(interleaved(4, 8)), simulate(interleaved(4, 8), Costs(inputs_first=True))

    assert whole.step_time - sooner.step_time == 3.0  # the gradients of one stage's weights at each boundary
    assert simulate(simple(4, 8), Costs(inputs_first=True)).step_time == sooner.step_time


def test_hundreds_of_stages_have_the_bubble_of_the_formula():
    assert simulate(interleaved(256, 512)).bubble == pytest.approx(255 / (512 + 255))


def test_costs_of_another_number_of_stages_are_refused():
    with pytest.raises(ValueError, match=r"each of the 2 stages.*\(3,\)"):
        simulate(simple(2, 2), Costs(forward=np.ones(3)))
    with pytest.raises(ValueError, match="negative"):
        simulate(SCHEDULES["zero_bubble"](2, 2), Costs(backward=1.0, weight=2.0))

"""Every schedule, of any size, runs: it is complete, free of deadlock, and within the memory that it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clary_parallel.schedule import (
    SCHEDULES,
    Costs,
    Schedule,
    ScheduleError,
    Work,
    check,
    forward_only,
    interleaved,
    interleaved_virtual,
    make_schedule,
    simple,
    simulate,
    zero_bubble,
)

ranks_ = st.integers(1, 12)
microbatches_ = st.integers(1, 40)


@pytest.mark.parametrize("name", SCHEDULES)
@given(ranks=ranks_, microbatches=microbatches_)
@settings(max_examples=60, deadline=None)
def test_a_schedule_of_any_size_passes_the_check(name: str, ranks: int, microbatches: int):
    check(SCHEDULES[name](ranks, microbatches))


@given(ranks=ranks_, microbatches=microbatches_, virtual=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_schedules_with_virtual_stages_pass_the_check(ranks: int, microbatches: int, virtual: int):
    check(interleaved_virtual(ranks, microbatches, virtual))
    check(forward_only(ranks, microbatches, virtual))


@given(ranks=ranks_, microbatches=microbatches_)
@settings(max_examples=60, deadline=None)
def test_1f1b_holds_at_most_as_many_forwards_as_stages_follow(ranks: int, microbatches: int):
    schedule = interleaved(ranks, microbatches)

    assert schedule.in_flight == tuple(min(ranks - rank, microbatches) for rank in range(ranks))
    assert simple(ranks, microbatches).in_flight == (microbatches,) * ranks
    assert max(zero_bubble(ranks, microbatches).in_flight) == max(schedule.in_flight)


@pytest.mark.parametrize(("ranks", "groups", "virtual"), [(2, 4, 1), (4, 2, 1), (4, 4, 2), (3, 2, 4), (8, 1, 2)])
def test_the_bubble_is_the_one_of_the_papers(ranks: int, groups: int, virtual: int):
    microbatches = groups * ranks
    schedule = make_schedule("interleaved", ranks, microbatches, virtual)

    bubble = simulate(schedule).bubble

    assert bubble == pytest.approx((ranks - 1) / (virtual * microbatches + ranks - 1))


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 8), (4, 8), (8, 32)])
def test_zero_bubble_leaves_a_third_of_the_bubble_of_1f1b(ranks: int, microbatches: int):
    step = simulate(zero_bubble(ranks, microbatches), Costs(forward=1, backward=2, weight=1)).step_time

    assert step == pytest.approx(3 * microbatches + (ranks - 1))
    assert simulate(interleaved(ranks, microbatches)).step_time == pytest.approx(3 * (microbatches + ranks - 1))


def test_the_sagemaker_names_of_schedules_are_known():
    assert make_schedule("_only_forward", 2, 2).name == "forward_only"
    assert make_schedule("simple", 2, 2).name == "simple"


def test_an_unknown_schedule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no schedule 'fast'.*interleaved"):
        make_schedule("fast", 2, 2)
    with pytest.raises(ValueError, match="virtual=2"):
        make_schedule("simple", 2, 2, virtual=2)
    with pytest.raises(ValueError, match="microbatches=0"):
        interleaved(2, 0)


def changed(schedule: Schedule, **fields: object) -> Schedule:
    return Schedule(**{**vars(schedule), **fields})  # type: ignore[arg-type]


def test_the_check_finds_a_backward_before_its_forward():
    schedule = interleaved(1, 1)
    with pytest.raises(ScheduleError, match="B0 of stage 0 stands before its forward"):
        check(changed(schedule, work=schedule.work[:, ::-1]))


def test_the_check_finds_ranks_that_wait_for_each_other():
    schedule = interleaved(2, 2)
    microbatch, work = schedule.microbatch.copy(), schedule.work.copy()
    microbatch[0] = [0, 0, 1, 1]
    work[0] = [Work.FORWARD, Work.BACKWARD, Work.FORWARD, Work.BACKWARD]
    microbatch[1] = [0, 1, 0, 1]
    work[1] = [Work.FORWARD, Work.FORWARD, Work.BACKWARD, Work.BACKWARD]
    with pytest.raises(ScheduleError, match=r"rank 0 at B0 of stage 0, rank 1 at F1 of stage 1"):
        check(changed(schedule, microbatch=microbatch, work=work))


def test_the_check_finds_messages_taken_in_another_order_than_sent():
    schedule = simple(2, 2)
    microbatch = schedule.microbatch.copy()
    microbatch[1, :2] = [1, 0]
    with pytest.raises(ScheduleError, match="another order"):
        check(changed(schedule, microbatch=microbatch))


def test_the_check_finds_more_held_than_promised():
    schedule = simple(2, 4)
    with pytest.raises(ScheduleError, match="Rank 0 holds 4 forwards at once; schedule 'simple' allows 3"):
        check(changed(schedule, in_flight=(3, 3)))


def test_the_check_finds_missing_and_misplaced_actions():
    schedule = simple(2, 2)
    with pytest.raises(ScheduleError, match="8 actions once"):
        check(changed(schedule, microbatch=np.zeros_like(schedule.microbatch)))
    with pytest.raises(ScheduleError, match="stands on rank 0"):
        check(changed(schedule, stage=schedule.stage[::-1]))

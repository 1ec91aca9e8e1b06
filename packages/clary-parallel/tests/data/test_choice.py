"""Who sums the gradients is the same on all ranks, and what was chosen by hand is had or refused."""

from __future__ import annotations

import pytest

from clary_parallel.data.choice import Seen, choose, gpu_name, gpu_of, wanted
from clary_parallel.errors import Disagreement, ParallelError
from parallel_lab import run_ranks


def test_nothing_said_means_auto() -> None:
    assert wanted({}) == "auto"


def test_a_wrong_value_is_refused_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"must be one of auto, mpi, nccl, ring. Received: 'gloo'"):
        wanted({"CLARY_PARALLEL_COLLECTIVES": "gloo"})


@pytest.mark.slow
def test_init_refuses_a_wrong_value() -> None:
    program = "import clary_parallel\nclary_parallel.init()"
    ended = run_ranks(program, 1, variables={"CLARY_PARALLEL_COLLECTIVES": "gloo"})
    assert ended.code != 0
    assert "CLARY_PARALLEL_COLLECTIVES must be one of auto, mpi, nccl, ring. Received: 'gloo'" in ended.errors


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        ([Seen("auto"), Seen("auto")], "mpi"),
        ([Seen("auto", "a's GPU 0"), Seen("auto", "a's GPU 1")], "nccl"),
        ([Seen("nccl", "a's GPU 0"), Seen("nccl", "b's GPU 0")], "nccl"),
        ([Seen("ring"), Seen("ring")], "ring"),
        ([Seen("mpi", "a's GPU 0"), Seen("mpi", "a's GPU 1")], "mpi"),
    ],
)
def test_the_choice(seen: list[Seen], kind: str) -> None:
    assert choose(seen) == (kind, "")


SHORTCOMINGS = [
    ([("a's GPU 0", ""), (None, "")], "rank 1 sees no GPU"),
    ([("a's GPU 0", ""), ("a's GPU 0", "")], "ranks 0, 1 share a's GPU 0"),
    ([("a's GPU 0", ""), ("a's GPU 1", "too late")], "rank 1: too late"),
]


@pytest.mark.parametrize(("found", "reason"), SHORTCOMINGS)
def test_auto_stays_on_mpi_and_says_why(found: list[tuple[str | None, str]], reason: str) -> None:
    kind, why = choose([Seen("auto", *each) for each in found])
    assert kind == "mpi"
    assert reason in why


@pytest.mark.parametrize(("found", "reason"), SHORTCOMINGS)
def test_nccl_chosen_by_hand_is_refused_where_it_cannot_be_had(
    found: list[tuple[str | None, str]], reason: str
) -> None:
    with pytest.raises(ParallelError, match=f"CLARY_PARALLEL_COLLECTIVES=nccl cannot be had: .*{reason}"):
        choose([Seen("nccl", *each) for each in found])


def test_ring_needs_no_gpu_but_a_process_that_can_still_begin() -> None:
    with pytest.raises(ParallelError, match="rank 1: too late"):
        choose([Seen("ring"), Seen("ring", None, "too late")])


def test_ranks_that_choose_differently_are_told() -> None:
    with pytest.raises(Disagreement, match="rank 0: ring, rank 1: mpi"):
        choose([Seen("ring"), Seen("mpi")])


def test_a_rank_takes_the_gpu_of_its_local_rank() -> None:
    assert [gpu_of(2, rank) for rank in range(3)] == [0, 1, 0]
    assert gpu_of(1, 3) == 0
    assert gpu_of(0, 0) is None


def test_gpus_that_a_launcher_shows_one_rank_each_have_names_of_their_own() -> None:
    assert gpu_name("a", 0, {"CUDA_VISIBLE_DEVICES": "2"}) != gpu_name("a", 0, {"CUDA_VISIBLE_DEVICES": "3"})
    assert gpu_name("a", 1, {"CUDA_VISIBLE_DEVICES": "0,GPU-7"}) == "a's GPU GPU-7"
    assert gpu_name("a", 1, {}) == "a's GPU 1"

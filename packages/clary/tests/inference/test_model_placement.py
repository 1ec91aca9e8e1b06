"""Which replica of a multi-model endpoint a request goes to."""

from __future__ import annotations

from dataclasses import dataclass

from clary.inference import model_placement
from clary.inference.model_placement import Placement


@dataclass(eq=False)
class Replica:
    outstanding: int = 0
    shunned_until: float = 0.0


def test_a_request_goes_where_its_model_is() -> None:
    placement, replicas = Placement(), [Replica(), Replica(), Replica()]
    placement.note("a", replicas[1])
    assert {id(placement.pick("a", replicas)) for _ in range(50)} == {id(replicas[1])}


def test_a_new_model_goes_to_the_replica_with_the_least_to_do() -> None:
    replicas = [Replica(3), Replica(1), Replica(2)]
    assert Placement().pick("new", replicas) is replicas[1]


def test_a_model_that_is_much_asked_for_spreads() -> None:
    placement, replicas = Placement(), [Replica(), Replica(3)]
    placement.note("a", replicas[1])
    assert placement.pick("a", replicas) is replicas[1]
    replicas[1].outstanding = 4
    assert placement.pick("a", replicas) is replicas[0]


def test_a_replica_that_cannot_be_reached_is_passed_over() -> None:
    placement, replicas = Placement(), [Replica(), Replica(shunned_until=float("inf"))]
    placement.note("a", replicas[1])
    assert placement.pick("a", replicas) is replicas[0]
    assert placement.pick("a", [replicas[1]]) is replicas[1]
    assert placement.pick("a", []) is None


def test_a_replica_that_has_lost_the_model_or_is_gone_is_forgotten() -> None:
    placement, kept = Placement(), Replica()
    gone = Replica()
    placement.note("a", gone)
    placement.note("a", kept)
    del gone
    placement.forget("a", kept)
    assert placement.pick("a", [kept]) is kept


def test_only_so_many_models_are_remembered() -> None:
    placement, replica = Placement(), Replica()
    for number in range(model_placement.MAX_MODELS + 10):
        placement.note(str(number), replica)
    assert len(placement._holders) == model_placement.MAX_MODELS  # pyright: ignore[reportPrivateUsage]

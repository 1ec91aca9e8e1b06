"""Threads as ranks keep the transport's promises, and its failures reach every rank."""

from __future__ import annotations

import numpy as np
import pytest
from transport_cases import CASES, Case

from clary_parallel.errors import Aborted, ParallelError, PeerStuck
from clary_parallel.transport.base import Transport, default_patience
from clary_parallel.transport.inprocess import run_threads, solo


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_conformance(case: Case, ranks: int) -> None:
    run_threads(ranks, case, patience=30)


def test_a_rank_that_never_comes_is_named_with_what_it_did_last() -> None:
    def program(transport: Transport) -> None:
        transport.barrier()
        if transport.rank != 2:
            transport.allreduce(np.zeros(1))

    with pytest.raises(PeerStuck, match=r"rank [01] waited 0.2 s in allreduce .* for rank 2, which did last: barrier"):
        run_threads(3, program, patience=0.2)


def test_a_message_that_never_comes_is_named() -> None:
    def program(transport: Transport) -> None:
        if transport.rank == 0:
            transport.irecv(np.zeros(1), 1, tag=4).wait()

    with pytest.raises(PeerStuck, match=r"rank 0 waited 0.2 s for a message of rank 1 with tag 4"):
        run_threads(2, program, patience=0.2)


def test_a_longer_message_is_an_error_at_the_receiver() -> None:
    alone = solo()
    alone.isend(np.zeros(4), 0)
    with pytest.raises(ParallelError, match="has 32 bytes; the buffer that receives it has 8"):
        alone.irecv(np.zeros(1), 0).wait()


def test_abort_ends_the_others_with_its_reason() -> None:
    seen: list[str] = []

    def program(transport: Transport) -> None:
        try:
            if transport.rank == 1:
                transport.abort("no more data")
            transport.barrier()
        except Aborted as error:
            seen.append(str(error))
            raise

    with pytest.raises(Aborted, match="no more data"):
        run_threads(3, program)
    assert seen == ["no more data"] * 3


def test_an_exception_in_one_rank_ends_the_others() -> None:
    def program(transport: Transport) -> None:
        if transport.rank == 1:
            raise KeyError("lost")
        transport.barrier()

    with pytest.raises(KeyError, match="lost"):
        run_threads(2, program)


def test_alone_is_one_rank() -> None:
    alone = solo()
    assert (alone.rank, alone.size, alone.local_rank, alone.local_size) == (0, 1, 0, 1)


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan"])
def test_patience_must_be_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARY_PARALLEL_PATIENCE", text)
    with pytest.raises(ValueError, match=f"CLARY_PARALLEL_PATIENCE must be a number of seconds above 0.*{text}"):
        default_patience()

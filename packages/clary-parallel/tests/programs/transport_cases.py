"""What every transport must do: one function a promise of transport/base.py, run by every rank of a group.

The tests run them on threads; run as a program under mpirun they report each case's failure, or None.
"""

import sys
import traceback
from collections.abc import Callable

import numpy as np

from clary_parallel.transport.base import Transport

Case = Callable[[Transport], None]
CASES: list[Case] = []


def case(function: Case) -> Case:
    """Add a promise to the suite."""
    CASES.append(function)
    return function


@case
def ranks_are_numbered_from_zero(t: Transport) -> None:
    assert sorted(t.allgather_object(t.rank)) == list(range(t.size))
    assert 0 <= t.local_rank < t.local_size <= t.size


@case
def a_message_arrives_as_it_was_sent(t: Transport) -> None:
    after, before = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    for kind in (np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_):
        sent = (np.arange(12).reshape(3, 4) + t.rank).astype(kind)
        received = np.zeros((3, 4), kind)
        requests = [t.irecv(received, before), t.isend(sent, after)]
        for request in requests:
            request.wait()
        np.testing.assert_array_equal(received, (np.arange(12).reshape(3, 4) + before).astype(kind))


@case
def messages_of_one_tag_keep_their_order(t: Transport) -> None:
    after, before = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    received = [np.zeros(1) for _ in range(5)]
    requests = [t.irecv(buffer, before, 3) for buffer in received]
    requests += [t.isend(np.array([float(i)]), after, 3) for i in range(5)]
    for request in requests:
        request.wait()
    assert [float(buffer[0]) for buffer in received] == [0, 1, 2, 3, 4]


@case
def tags_do_not_wait_for_one_another(t: Transport) -> None:
    after, before = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    first, second = np.zeros(1), np.zeros(1)
    sends = [t.isend(np.array([1.0]), after, 1), t.isend(np.array([2.0]), after, 32767)]
    t.irecv(second, before, 32767).wait()
    t.irecv(first, before, 1).wait()
    for request in sends:
        request.wait()
    assert (first[0], second[0]) == (1, 2)


@case
def test_says_whether_a_receive_is_done(t: Transport) -> None:
    if t.rank == 0:
        received = np.zeros(1)
        request = t.irecv(received, t.size - 1, 5)
        assert t.size == 1 or not request.test()
        if t.size == 1:
            t.isend(np.array([7.0]), 0, 5).wait()
        t.barrier()
        while not request.test():
            pass
        assert request.test()
        assert received[0] == 7
    else:
        t.barrier()
        if t.rank == t.size - 1:
            t.isend(np.array([7.0]), 0, 5).wait()


@case
def a_shorter_message_leaves_the_rest_as_it_was(t: Transport) -> None:
    after, before = (t.rank + 1) % t.size, (t.rank - 1) % t.size
    received = np.full(4, 9.0)
    requests = [t.irecv(received, before), t.isend(np.zeros(2), after)]
    for request in requests:
        request.wait()
    assert received.tolist() == [0, 0, 9, 9]


@case
def a_peer_that_does_not_exist_is_refused(t: Transport) -> None:
    message = ""
    try:
        t.isend(np.zeros(1), t.size)
    except ValueError as error:
        message = str(error)
    assert f"no rank {t.size}" in message


@case
def broadcast_copies_the_root(t: Transport) -> None:
    for root in range(t.size):
        buffer = np.full((3, 5), t.rank, np.float16)
        t.broadcast(buffer, root)
        assert (buffer == root).all()


@case
def allreduce_sums_in_place(t: Transport) -> None:
    ranks = np.arange(t.size)
    for count in (1, 1000, 600_000):
        for kind in (np.float32, np.float64, np.int32, np.int64):
            buffer = (np.arange(count) % 7 + t.rank).astype(kind)
            t.allreduce(buffer)
            np.testing.assert_array_equal(buffer, ((np.arange(count) % 7) * t.size + ranks.sum()).astype(kind))


@case
def allreduce_finds_the_greatest_and_the_least(t: Transport) -> None:
    buffer = np.array([t.rank, -t.rank], np.int64)
    t.allreduce(buffer, "max")
    assert buffer.tolist() == [t.size - 1, 0]
    buffer = np.array([t.rank, -t.rank], np.float32)
    t.allreduce(buffer, "min")
    assert buffer.tolist() == [0, 1 - t.size]


@case
def every_rank_gets_the_same_bits(t: Transport) -> None:
    buffer = np.random.default_rng(t.rank).normal(size=4097).astype(np.float32)
    t.allreduce(buffer)
    assert len(set(t.allgather_object(buffer.tobytes()))) == 1


@case
def non_blocking_allreduces_may_end_in_any_order(t: Transport) -> None:
    buffers = [np.full(n, float(t.rank + n)) for n in (10, 300_000, 1)]
    requests = [t.iallreduce(buffer) for buffer in buffers]
    for request in reversed(requests):
        request.wait()
    for n, buffer in zip((10, 300_000, 1), buffers, strict=True):
        assert (buffer == t.size * n + sum(range(t.size))).all()
    small = np.array([t.rank])
    request = t.iallreduce(small, "max")
    while not request.test():
        pass
    assert small[0] == t.size - 1


@case
def allgather_takes_different_lengths(t: Transport) -> None:
    parts = t.allgather(np.full((t.rank, 2), t.rank, np.float32))
    assert [part.shape for part in parts] == [(rank, 2) for rank in range(t.size)]
    assert all((part == rank).all() for rank, part in enumerate(parts))
    joined = t.allgather_joined(np.full((t.rank, 2), t.rank, np.float32))
    assert joined[:, 0].tolist() == [rank for rank in range(t.size) for _ in range(rank)]


@case
def alltoall_hands_each_rank_its_piece(t: Transport) -> None:
    parts = t.alltoall([np.full(peer + 1, 10 * t.rank + peer, np.uint16) for peer in range(t.size)])
    assert [part.tolist() for part in parts] == [[10 * peer + t.rank] * (t.rank + 1) for peer in range(t.size)]


@case
def objects_travel(t: Transport) -> None:
    assert t.broadcast_object({"from": t.rank}, t.size - 1) == {"from": t.size - 1}
    assert t.allgather_object(("rank", t.rank)) == [("rank", rank) for rank in range(t.size)]


@case
def groups_number_their_ranks_as_listed(t: Transport) -> None:
    backwards = t.group(list(reversed(range(t.size))))
    assert backwards is not None
    assert (backwards.rank, backwards.size) == (t.size - 1 - t.rank, t.size)
    first = t.group([0])
    assert (first is not None) == (t.rank == 0)
    mine = [rank for rank in range(t.size) if rank % 2 == t.rank % 2]
    half = t.group(mine)
    assert half is not None
    total = np.array([t.rank])
    half.allreduce(total)
    assert total[0] == sum(mine)
    if half.size > 1:
        peer = 1 - half.rank if half.rank < 2 else half.rank
        received = np.zeros(1)
        requests = [half.irecv(received, peer), half.isend(np.array([float(t.rank)]), peer)]
        for request in requests:
            request.wait()
        assert received[0] == mine[peer]


@case
def a_barrier_lets_nobody_pass_early(t: Transport) -> None:
    for _ in range(20):
        t.barrier()


def main() -> None:
    from rank_report import report

    from clary_parallel.transport.mpi import connect

    transport = connect(patience=60)
    failures: dict[str, str | None] = {}
    for each in CASES:
        try:
            each(transport)
            failures[each.__name__] = None
        except Exception:  # noqa: BLE001 (reported, by name)
            failures[each.__name__] = traceback.format_exc()
            # The others may wait for this rank: the report says why they were ended.
            report(failures)
            transport.abort(f"{each.__name__} failed: {sys.exc_info()[1]!r}")
    report(failures)
    transport.close()


if __name__ == "__main__":
    main()

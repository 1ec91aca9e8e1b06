"""Fused reductions give each tensor's mean or sum, whatever the tensors' number, sizes and types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clary_parallel.data.fusion import ALIGNMENT, Bucket, Pool, allreduce_fused, allreduce_half, plan
from clary_parallel.transport.base import Transport
from clary_parallel.transport.inprocess import run_threads, solo


def test_buckets_go_from_the_last_tensor_to_the_first_and_hold_one_type() -> None:
    kinds = ["float32", "float16", "float32", "float32"]
    assert plan(kinds, [4, 4, 4, 8], 8) == [
        Bucket("float32", (3,)),
        Bucket("float32", (2, 0)),
        Bucket("float16", (1,)),
    ]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 50)), max_size=20), st.integers(1, 60))
def test_every_tensor_is_in_one_bucket_and_buckets_keep_to_the_cap(tensors: list[tuple[str, int]], cap: int) -> None:
    buckets = plan([kind for kind, _ in tensors], [size for _, size in tensors], cap)
    assert sorted(index for bucket in buckets for index in bucket.indices) == list(range(len(tensors)))
    for bucket in buckets:
        assert {tensors[index][0] for index in bucket.indices} == {bucket.kind}
        assert len(bucket.indices) == 1 or sum(tensors[index][1] for index in bucket.indices) <= cap


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([(), (1,), (3, 5), (0,), (17,), (300_000,)]), min_size=1, max_size=6))
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_fused_tensors_have_the_weighted_mean(kind: type, shapes: list[tuple[int, ...]]) -> None:
    def program(transport: Transport) -> None:
        def tensors_of(rank: int) -> list[np.ndarray]:
            random = np.random.default_rng(rank)
            return [np.asarray(random.normal(size=shape)).astype(kind) for shape in shapes]

        mine = tensors_of(transport.rank)
        results = allreduce_fused(transport, mine, transport.rank + 1.0, Pool())
        both = zip(tensors_of(0), tensors_of(1), results, mine, tensors_of(transport.rank), strict=True)
        for first, second, result, given_, before in both:
            np.testing.assert_allclose(result, (first + 2 * second) / 3, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(given_, before)
            assert result.shape == first.shape
            assert result.ctypes.data % ALIGNMENT == 0 or result.size == 0

    run_threads(2, program)


def test_a_sum_is_not_weighted() -> None:
    def program(transport: Transport) -> list[float]:
        return allreduce_fused(transport, [np.array([1.0, 2.0])], 5.0, Pool(), average=False)[0].tolist()

    assert run_threads(3, program) == [[3.0, 6.0]] * 3


def test_ranks_of_weight_zero_do_not_count() -> None:
    def program(transport: Transport) -> float:
        weight = float(transport.rank == 1)
        return float(allreduce_fused(transport, [np.array([4.0 * transport.rank])], weight, Pool())[0][0])

    assert run_threads(2, program) == [4.0, 4.0]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("average", [True, False])
def test_half_precision_is_summed_in_single(ranks: int, average: bool) -> None:
    def program(transport: Transport) -> list[np.ndarray]:
        # 2048 + 1 has no float16: a sum made in float16 would lose every 1.
        tensors = [np.full(5, 2048 if transport.rank == 0 else 2, np.float16), np.ones((2, 2), np.float16)]
        return allreduce_half(transport, tensors, 1.0, average=average)

    total = 2048 + 2 * (ranks - 1)
    for first, second in run_threads(ranks, program):
        np.testing.assert_allclose(first, total / ranks if average else total, rtol=1e-3)
        np.testing.assert_array_equal(second, np.full((2, 2), 1 if average else ranks))


def test_a_buffer_is_lent_again_only_when_nobody_holds_a_view() -> None:
    pool = Pool()
    first = pool.take(np.dtype(np.float32), 100)
    part = first[3:5]
    address = first.ctypes.data
    del first
    assert pool.take(np.dtype(np.float32), 100).ctypes.data != address
    del part
    addresses = {pool.take(np.dtype(np.float32), 100).ctypes.data for _ in range(4)}
    assert address in addresses


def test_results_of_one_step_survive_the_next() -> None:
    pool, alone = Pool(), solo()
    (first,) = allreduce_fused(alone, [np.array([1.0, 2.0])], 1.0, pool)
    allreduce_fused(alone, [np.array([7.0, 8.0])], 1.0, pool)
    assert first.tolist() == [1.0, 2.0]

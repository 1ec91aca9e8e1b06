"""Calls are joined only while the device is busy, and never fail each other."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from clary_toolkit.serving.batching import Call, Device
from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.execution import Executor
from clary_toolkit.serving.signatures import Signature, TensorSpec
from clary_toolkit.serving.workers import Workers


class Gate(Executor):
    """Adds one; each call waits until it is let through. A row of -1 is refused."""

    def __init__(self) -> None:
        spec = TensorSpec("x", "float", np.float32, (-1,))
        self.signatures = {"s": Signature("s", [spec], [spec])}
        self.sizes: list[int] = []
        self.entered = threading.Semaphore(0)
        self.may_pass = threading.Semaphore(0)

    def run(self, signature, inputs):
        self.sizes.append(len(inputs["x"]))
        self.entered.release()
        assert self.may_pass.acquire(timeout=20)
        if (inputs["x"] == -1).any():
            raise InvalidArgument("refused")
        return {"x": inputs["x"] + 1}

    def close(self) -> None:
        pass


class Outcome:
    def __init__(self) -> None:
        self.come = threading.Event()

    def __call__(self, outcome) -> None:
        self.outcome = outcome
        self.come.set()

    def wait(self):
        assert self.come.wait(20)
        return self.outcome


def submit(device, workers, gate, values, rows=0):
    outcome = Outcome()
    array = np.array(values, np.float32)
    call = Call(gate, gate.signatures["s"], {"x": array}, len(array) if rows == 0 else rows, outcome)
    workers.run(lambda: device.submit(call))
    return outcome


@pytest.fixture
def parts():
    workers = Workers(4, "test")
    return Device(1, 8, workers.run), workers, Gate()


def hold(device, workers, gate):
    """A call that keeps the device busy."""
    first = submit(device, workers, gate, [0])
    assert gate.entered.acquire(timeout=20)
    return first


def wait_for(device, count):
    deadline = threading.Event()
    for _ in range(2000):
        if sum(len(calls) for calls in device._waiting.values()) == count:
            return
        deadline.wait(0.005)
    raise AssertionError(f"{count} calls never waited")


def test_calls_that_come_while_the_device_is_busy_share_the_next_call(parts):
    device, workers, gate = parts
    first = hold(*parts)
    others = [submit(device, workers, gate, [n, n]) for n in (1, 2, 3)]
    wait_for(device, 3)
    gate.may_pass.release(10)
    assert first.wait()["x"].tolist() == [1]
    assert [outcome.wait()["x"].tolist() for outcome in others] == [[2, 2], [3, 3], [4, 4]]
    assert gate.sizes == [1, 6]


def test_a_bad_row_fails_its_own_request_alone(parts):
    device, workers, gate = parts
    hold(*parts)
    outcomes = [submit(device, workers, gate, [value]) for value in (5, -1, 7)]
    wait_for(device, 3)
    gate.may_pass.release(10)
    good, bad, other = [outcome.wait() for outcome in outcomes]
    assert (good["x"].tolist(), other["x"].tolist()) == ([6], [8])
    assert isinstance(bad, InvalidArgument)
    assert gate.sizes == [1, 3, 1, 1, 1]


def test_a_batch_holds_no_more_rows_than_allowed(parts):
    device, workers, gate = parts
    hold(*parts)
    outcomes = [submit(device, workers, gate, [n] * 5) for n in range(3)]
    wait_for(device, 3)
    gate.may_pass.release(10)
    for outcome in outcomes:
        outcome.wait()
    assert gate.sizes == [1, 5, 5, 5]


def test_calls_that_may_not_be_joined_run_alone(parts):
    device, workers, gate = parts
    hold(*parts)
    outcomes = [submit(device, workers, gate, [n], rows=None) for n in range(3)]
    wait_for(device, 3)
    gate.may_pass.release(10)
    for outcome in outcomes:
        outcome.wait()
    assert gate.sizes == [1, 1, 1, 1]


def test_who_waits_for_an_outcome_gets_it_also_from_another_thread(parts):
    device, _, gate = parts
    gate.may_pass.release(50)
    results = []

    def ask(value):
        inputs = {"x": np.array([value], np.float32)}
        results.append((value, device.run(gate, gate.signatures["s"], inputs, 1)["x"].tolist()))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [(n, [n + 1]) for n in range(20)]

"""Whoever asks for what another thread is making gets it whole."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from clary.wire.compiled import Compiled
from clary.wire.json_output import Encoder
from clary.wire.services import model
from clary.wire.shapes import Compiler

SHAPE = SimpleNamespace(name="Tree")


def test_a_shape_may_hold_itself():
    compiled: Compiled[list[object]] = Compiled()

    def make(shape: object) -> list[object]:
        made: list[object] = []
        compiled.begin(shape, made)
        made.append(compiled.of(shape, make))
        return made

    made = compiled.of(SHAPE, make)
    assert made[0] is made
    assert compiled.of(SHAPE, make) is made


def test_another_thread_waits_until_the_members_are_there():
    compiled: Compiled[list[str]] = Compiled()
    begun, go_on, got = threading.Event(), threading.Event(), threading.Event()

    def make(shape: object) -> list[str]:
        made: list[str] = []
        compiled.begin(shape, made)
        begun.set()
        go_on.wait(30)
        made.append("a member")
        return made

    def ask() -> list[str]:
        made = list(compiled.of(SHAPE, make))
        got.set()
        return made

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(compiled.of, SHAPE, make)
        assert begun.wait(30)
        second = threads.submit(ask)
        early = got.wait(0.2)
        go_on.set()
        assert first.result(30) == second.result(30) == ["a member"]
    assert not early


def test_what_could_not_be_made_is_made_again():
    compiled: Compiled[str] = Compiled()

    def fail(shape: object) -> str:
        compiled.begin(shape, "half")
        raise ValueError("half made")

    with pytest.raises(ValueError, match="half made"):
        compiled.of(SHAPE, fail)
    assert compiled.of(SHAPE, lambda shape: "whole") == "whole"


@pytest.fixture
def threads_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("attempt", range(5))
def test_requests_lose_nothing_while_their_operation_is_compiled(attempt, threads_take_turns_often):
    def request_and_answer(start: threading.Barrier) -> tuple[object, object]:
        start.wait(30)
        check = compiler.compile(operation.input_shape)
        encode = encoder.compile(described.output_shape)
        assert encode
        return check(request), encode(answer)

    service = model("sagemaker")
    operation, described = service.operation_model("CreateModel"), service.operation_model("DescribeModel")
    request = {"ModelName": "m", "VpcConfig": {"Subnets": ["s"], "SecurityGroupIds": ["g"]}}
    answer = {**request, "EnableNetworkIsolation": True}
    compiler, encoder = Compiler(), Encoder()
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(request_and_answer, start) for _ in range(8)]:
            assert future.result(60) == (request, answer)

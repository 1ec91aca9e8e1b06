"""A faster engine computes only what it has been seen to compute as TensorFlow does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from clary_toolkit.serving.checked_execution import CheckedExecutor
from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.execution import Declined, Engine, Executor, Unfit
from clary_toolkit.serving.signatures import Signature, TensorSpec

SIGNATURE = Signature(
    "serving_default", [TensorSpec("x", "float", np.float32, (-1,))], [TensorSpec("y", "float", np.float32, (-1,))]
)
Compute = Callable[[np.ndarray], np.ndarray]


class Trusted(Executor):
    """Doubles x, and remembers what it was asked."""

    def __init__(self) -> None:
        self.signatures = {SIGNATURE.name: SIGNATURE}
        self.asked: list[list[float]] = []

    def run(self, signature, inputs):
        self.asked.append(inputs["x"].tolist())
        if (inputs["x"] == 7).any():
            raise InvalidArgument("seven is no input")
        with np.errstate(invalid="ignore"):
            return {"y": inputs["x"] * 2}

    def close(self) -> None:
        pass


class Fast(Engine):
    """Computes as it is told."""

    name = "Fast"

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.asked: list[list[float]] = []

    def run(self, inputs):
        self.asked.append(inputs["x"].tolist())
        return {"y": self.compute(inputs["x"]).astype(np.float32)}


class Pair:
    """Both, one beside the other."""

    def __init__(self, compute: Compute, tolerance: float = 1e-4, rows: int = 0) -> None:
        self.trusted = Trusted()
        self.fast = Fast(compute)
        self.kept: list[list[float]] = []
        self.executor = CheckedExecutor(self.trusted, self._prepare, tolerance, "m", rows)

    def _prepare(self, _: Signature, samples: Sequence[Mapping[str, np.ndarray]]) -> Engine:
        self.kept += [inputs["x"].tolist() for inputs in samples]
        return self.fast

    def run(self, *values: float) -> list[float]:
        return self.executor.run(SIGNATURE, {"x": np.array(values, np.float32)})["y"].tolist()

    def settle(self, capsys: pytest.CaptureFixture[str], words: str) -> str:
        """The log, once these words are in it."""
        said = ""
        end = time.monotonic() + 20
        while words not in said and time.monotonic() < end:
            said += capsys.readouterr().err
            time.sleep(0.005)
        assert words in said
        return said


def test_the_engine_computes_once_a_made_up_and_a_real_sample_were_equal(capsys):
    pair = Pair(lambda x: x * 2)
    made_up = pair.executor.rehearse(SIGNATURE, {"x": np.array([0.5], np.float32)})
    assert made_up["y"].tolist() == [1.0]
    end = time.monotonic() + 20
    while not pair.fast.asked and time.monotonic() < end:
        time.sleep(0.005)
    assert not pair.executor._engines
    while not pair.executor._engines and time.monotonic() < end:
        assert pair.run(1.5) == [3.0]
    assert "Fast computes from now on" in pair.settle(capsys, "from now on")
    before = len(pair.trusted.asked)
    assert pair.run(4) == [8.0]
    assert len(pair.trusted.asked) == before


@pytest.mark.parametrize(
    ("compute", "why"),
    [
        (lambda x: x * 2.1, "differs from TensorFlow's by"),
        (lambda x: np.append(x, x) * 2, "of shape [2]; TensorFlow's is float32 of shape [1]"),
        (lambda x: x * np.nan, "differs from TensorFlow's by nan"),
    ],
)
def test_an_engine_that_differs_is_dropped_and_the_log_says_why_once(capsys, compute, why):
    pair = Pair(compute)
    assert pair.run(1) == [2.0]
    said = pair.settle(capsys, "TensorFlow computes.")
    assert why in said
    assert pair.run(1) == pair.run(1) == [2.0]
    assert pair.fast.asked == [[1.0]]
    assert capsys.readouterr().err == ""


def test_an_engine_that_takes_longer_is_dropped_and_the_log_says_how_long(capsys):
    def compute(x: np.ndarray) -> np.ndarray:
        threading.Event().wait(0.05)  # a slow engine
        return x * 2

    pair = Pair(compute)
    end = time.monotonic() + 20
    while pair.executor._wanted and time.monotonic() < end:
        pair.run(1)
    said = pair.settle(capsys, "TensorFlow computes.")
    assert "Fast gives the same, but takes " in said
    assert not pair.executor._engines


def test_an_engine_that_is_made_after_requests_gets_so_many_rows_and_is_compared_on_all(capsys):
    pair = Pair(lambda x: x * 2, rows=5)
    pair.executor.rehearse(SIGNATURE, {"x": np.array([9], np.float32)})
    end = time.monotonic() + 20
    value = 0.0
    while not pair.executor._engines and time.monotonic() < end:
        assert pair.run(value, value + 1) == [value * 2, value * 2 + 2]
        value += 2
        time.sleep(0.01)
    assert "as those to the others that it was made after" in pair.settle(capsys, "from now on")
    assert len(pair.kept) == 3  # two rows each
    assert [9.0] not in pair.kept
    assert all(sample in pair.fast.asked for sample in pair.kept)


def test_an_engine_that_differs_on_one_of_many_is_dropped(capsys):
    pair = Pair(lambda x: np.where(x == 1, 0, x * 2), rows=4)
    end = time.monotonic() + 20
    value = 0.0
    while pair.executor._wanted and time.monotonic() < end:
        pair.run(value)
        value = (value + 1) % 6
        time.sleep(0.01)
    assert "differs from TensorFlow's by" in pair.settle(capsys, "TensorFlow computes.")


def test_an_engine_that_cannot_be_made_is_told_with_its_reason(capsys):
    def prepare(*_: object) -> Engine:
        raise Unfit("No such operation: Frobnicate.")

    executor = CheckedExecutor(Trusted(), prepare, 1e-4, "m")
    executor.run(SIGNATURE, {"x": np.ones(1, np.float32)})
    Pair.settle(None, capsys, "TensorFlow computes. No such operation: Frobnicate.")  # type: ignore[arg-type]


def computing(capsys, compute: Compute) -> Pair:
    pair = Pair(compute)
    pair.run(1)
    pair.settle(capsys, "from now on")
    return pair


def test_what_the_engine_declines_tensorflow_answers_and_the_log_says_so_once(capsys):
    def compute(x: np.ndarray) -> np.ndarray:
        if (x == 13).any():
            raise Declined("Thirteen is not for me.")
        return x * 2

    pair = computing(capsys, compute)
    assert pair.run(13) == [26.0]
    assert pair.run(13) == [26.0]
    assert capsys.readouterr().err.count("Thirteen is not for me.") == 1
    pair.run(4)
    assert pair.trusted.asked[-2:] == [[13.0], [13.0]]


def test_an_input_that_does_not_fit_is_refused_in_tensorflows_words(capsys):
    def compute(x: np.ndarray) -> np.ndarray:
        if (x == 7).any():
            raise RuntimeError("check failed in src/engine.cpp")
        return x * 2

    pair = computing(capsys, compute)
    with pytest.raises(InvalidArgument, match="seven is no input"):
        pair.run(7)
    assert "engine.cpp" not in capsys.readouterr().err


def test_a_declined_sample_decides_nothing(capsys):
    def compute(x: np.ndarray) -> np.ndarray:
        if (x == 13).any():
            raise Declined("Thirteen is not for me.")
        return x * 2

    pair = Pair(compute)
    end = time.monotonic() + 20
    pair.run(13)
    while not pair.executor._engines and time.monotonic() < end:
        pair.run(2)
    pair.settle(capsys, "from now on")


def test_infinite_values_in_the_same_places_are_equal(capsys):
    pair = Pair(lambda x: x * 2)
    assert pair.run(np.inf, 1) == [np.inf, 2.0]
    pair.settle(capsys, "from now on")


def test_the_engine_that_computes_says_whether_requests_are_joined(capsys):
    pair = Pair(lambda x: x * 2)
    pair.fast.gains_by_joining = False
    assert pair.executor.gains_by_joining(SIGNATURE)  # TensorFlow's word, as long as it computes
    pair.run(1)
    pair.settle(capsys, "from now on")
    assert not pair.executor.gains_by_joining(SIGNATURE)

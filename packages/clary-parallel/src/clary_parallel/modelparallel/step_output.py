"""What a step function returns: for each tensor all its versions, one for each micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clary_parallel.frameworks import tf


class Total:
    """The sum of a gradient over micro-batches, which adds up in a variable while the step runs.

    If only its mean is asked for, the step divides that variable itself at its end, and no second copy is made.

    Args:
        read: The variable's value when the step has run.
        count: How many micro-batches there are.
        divide: Tells the step to divide the variable.
    """

    def __init__(self, read: Any, count: int, divide: Callable[[], None]) -> None:
        self._read, self._count, self._divide = read, count, divide
        self._is_mean: bool | None = None

    def sum(self) -> Any:
        """The sum."""
        if self._is_mean is None:
            self._is_mean = False
        return self._read * tf.cast(self._count, self._read.dtype) if self._is_mean else self._read

    def mean(self) -> Any:
        """The mean."""
        if self._is_mean is None:
            self._is_mean = True
            self._divide()
        return self._read if self._is_mean else self._read / tf.cast(self._count, self._read.dtype)


class StepOutput:
    """The versions of one tensor across micro-batches.

    Args:
        outputs: One tensor for each micro-batch, or what gives them when they are asked for.
        count: How many there are.
        total: What they add up to, of gradients.
    """

    def __init__(
        self, outputs: Sequence[Any] | Callable[[], Sequence[Any]], count: int, total: Total | None = None
    ) -> None:
        self._given, self._count, self._total = outputs, count, total

    @property
    def outputs(self) -> list[Any]:
        """The tensors, by micro-batch."""
        if callable(self._given):
            self._given = self._given()
        return list(self._given)

    def reduce_mean(self) -> Any:
        """The mean over micro-batches."""
        if self._total is not None:
            return self._total.mean()
        outputs = self.outputs
        if not outputs[0].dtype.is_floating:
            return tf.reduce_mean(tf.stack(outputs), axis=0)
        return tf.add_n(outputs) / tf.cast(self._count, outputs[0].dtype)

    def reduce_sum(self) -> Any:
        """The sum over micro-batches."""
        return self._total.sum() if self._total is not None else tf.add_n(self.outputs)

    def concat(self) -> Any:
        """The tensors one after another along the batch axis; scalars become a vector."""
        outputs = self.outputs
        return self.stack() if outputs[0].shape.rank == 0 else tf.concat(outputs, axis=0)

    def merge(self) -> Any:
        """The same as `concat`."""
        return self.concat()

    def stack(self) -> Any:
        """The tensors along a new first axis."""
        return tf.stack(self.outputs)

    def accumulate(self, method: str = "variable", var: Any = None) -> Any:
        """The mean over micro-batches, by the way that takes least memory.

        Args:
            method: "variable", "add_n" or "accumulate_n". Gradients add up in variables while the step runs, with each.
            var: A variable that takes the mean; of "variable" only.
        """
        if method not in ("variable", "add_n", "accumulate_n"):
            raise ValueError(f'method must be "variable", "add_n" or "accumulate_n". Received: {method!r}.')
        mean = self.reduce_mean()
        if method != "variable" or var is None:
            return mean
        var.assign(mean)
        return tf.convert_to_tensor(var)

    def __repr__(self) -> str:
        return f"<StepOutput of {self._count} micro-batches>"

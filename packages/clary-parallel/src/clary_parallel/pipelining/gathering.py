"""Saving what no single rank holds: one rank writes, and asks the owners for one variable after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras.src.saving import saving_lib  # pyright: ignore[reportMissingImports]

from clary_parallel.pipelining.held import Fetching
from clary_parallel.transport import Transport

_TAG = 29_999


class Gathering:
    """Variables that ranks hold between them. Every rank makes it with the same variables in the same order.

    Args:
        variables: Those that are absent on some rank.
        owner: The rank of each that holds it.
        transport: The pipeline's ranks.
    """

    def __init__(self, variables: Sequence[Any], owner: Mapping[int, int], transport: Transport) -> None:
        self._variables = list(variables)
        self._owner = [owner[id(variable)] for variable in variables]
        self._number = {id(variable): number for number, variable in enumerate(variables)}
        self._transport = transport

    @contextlib.contextmanager
    def on_first_rank(self) -> Generator[bool]:
        """Collective: inside, the first rank (where it gives True) reads absent variables while the others serve it."""
        if self._transport.rank != 0:
            self._serve()
            yield False
            return
        last: tuple[Any, Any] = (None, None)

        def fetch(variable: Any) -> Any:
            nonlocal last
            if last[0] is not variable:
                last = variable, self._ask(variable)
            return last[1]

        Fetching.fetch = fetch
        try:
            yield True
        finally:
            Fetching.fetch = None
            self._transport.broadcast_object(None)

    def everywhere(self) -> dict[int, Any]:
        """The value of each variable, by its id, on every rank. Collective."""
        values: dict[int, Any] = {}
        for variable, owner in zip(self._variables, self._owner, strict=True):
            value = _value(variable) if owner == self._transport.rank else _buffer(variable)
            self._transport.broadcast(value, owner)
            values[id(variable)] = value
        return values

    def _ask(self, variable: Any) -> Any:
        number = self._number.get(id(variable))
        if number is None:  # Of a layer that no stage uses.
            return variable._initializer(variable._shape, dtype=variable._dtype)
        self._transport.broadcast_object(number)
        value = _buffer(variable)
        self._transport.irecv(value, self._owner[number], _TAG).wait()
        return tf.convert_to_tensor(value)

    def _serve(self) -> None:
        while (number := self._transport.broadcast_object(None)) is not None:
            if self._owner[number] == self._transport.rank:
                self._transport.isend(_value(self._variables[number]), 0, _TAG).wait()


@contextlib.contextmanager
def written_to_disk() -> Generator[None]:
    """Keras writes weights straight to a file, and does not collect them in memory first."""
    ordinary = saving_lib.is_memory_sufficient
    saving_lib.is_memory_sufficient = _never
    try:
        yield
    finally:
        saving_lib.is_memory_sufficient = ordinary


def _never(model: Any) -> bool:
    return False


def _value(variable: Any) -> Any:
    return np.ascontiguousarray(np.asarray(variable.value))


def _buffer(variable: Any) -> Any:
    return np.empty(tuple(variable.shape), tf.as_dtype(variable._dtype).as_numpy_dtype)

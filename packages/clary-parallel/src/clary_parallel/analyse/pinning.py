"""Pinning layers to partitions where the model is written: `with clary_parallel.partition(1): ...`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from typing import Any
from weakref import WeakKeyDictionary

import keras  # pyright: ignore[reportMissingImports]

from clary_parallel.analyse.keras_model import TracedModel

_open = threading.local()
_pinned: WeakKeyDictionary[Any, dict[int, int]] = WeakKeyDictionary()
"""For each layer the partition of each of its calls."""


@contextlib.contextmanager
def partition(number: int) -> Generator[None]:
    """Pin the layers that are called inside the block to a partition; of nested blocks the innermost counts.

    Args:
        number: The partition, from 0.

    Example:
        with clary_parallel.partition(0):
            x = keras.layers.Dense(64)(inputs)
        with clary_parallel.partition(1):
            outputs = keras.layers.Dense(10)(x)
    """
    if number < 0:
        raise ValueError(f"Partitions are numbered from 0. Received: {number}.")
    stack: list[int] = _open.__dict__.setdefault("stack", [])
    stack.append(number)
    ordinary = keras.Operation.__call__, keras.layers.Layer.__call__
    try:
        if len(stack) == 1:
            keras.Operation.__call__ = _recording(ordinary[0])
            keras.layers.Layer.__call__ = _recording(ordinary[1])
        yield
    finally:
        stack.pop()
        if not stack:
            keras.Operation.__call__, keras.layers.Layer.__call__ = ordinary


def pins_of(traced: TracedModel) -> dict[str, int]:
    """The pins that `partition` blocks gave to a model's calls, by operation name."""
    pins: dict[str, int] = {}
    for operation, call in zip(traced.graph.operations, traced.calls, strict=True):
        calls = _pinned.get(call.operation)
        if not calls or not call.inputs:
            continue
        number = call.outputs[0]._keras_history[1]
        # A model inside a model was called anew to be opened: then the layer's own pin counts, if it has only one.
        own = set(calls.values())
        if number in calls or len(own) == 1:
            pins[operation.name] = calls[number] if number in calls else next(iter(own))
    return pins


def _recording(ordinary: Any) -> Any:
    def call(operation: Any, *arguments: Any, **options: Any) -> Any:
        before = len(operation._inbound_nodes)
        result = ordinary(operation, *arguments, **options)
        stack: list[int] = _open.__dict__.get("stack", [])
        if stack and len(operation._inbound_nodes) > before:
            _pinned.setdefault(operation, {}).setdefault(len(operation._inbound_nodes) - 1, stack[-1])
        return result

    return call

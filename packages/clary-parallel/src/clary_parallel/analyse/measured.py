"""A profiling pass: the time of each operation's forward and backward for a micro-batch, measured here and remembered.

Each operation runs alone on arrays of zeros, with weights of its own that are dropped at once; so a model that is only
described can be measured too, and the pass needs the memory of one operation. Operations that are alike (class,
settings, shapes, types) are measured once, and once for all on a machine: results are kept in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clary_parallel.analyse.keras_model import Call, TracedModel, gradient_reaches
from clary_parallel.frameworks import keras, tf

_REPEATS = 3
_SECONDS = 0.02
_SIMPLE = (str, int, float, bool, type(None), tuple, list)


def measure_operations(traced: TracedModel, microbatch: int, cache: Path | None = None) -> list[float]:
    """Seconds of each operation of a traced model, 0 for inputs.

    An operation that cannot run alone (its layer cannot be made from its settings) keeps its estimate.

    Args:
        traced: The model; only its graph is used.
        microbatch: Examples of a micro-batch.
        cache: The file with earlier results; by default CLARY_PARALLEL_CACHE, or one under ~/.cache.
    """
    file = cache or cache_file()
    known = _read(file)
    before = len(known)
    seconds: list[float] = []
    reached = gradient_reaches(traced.calls)
    for operation, call, reaches in zip(traced.graph.operations, traced.calls, reached, strict=True):
        if not call.inputs:
            seconds.append(0.0)
            continue
        key = _key(call, microbatch, reaches)
        if key not in known:
            measured = _measure(call, microbatch, reaches)
            known[key] = operation.seconds if measured is None else measured
        seconds.append(known[key])
    if len(known) > before:
        _write(file, known)
    return seconds


def with_seconds(traced: TracedModel, seconds: list[float]) -> TracedModel:
    """The traced model with other times of its operations."""
    pairs = zip(traced.graph.operations, seconds, strict=True)
    operations = tuple(replace(operation, seconds=took) for operation, took in pairs)
    return replace(traced, graph=replace(traced.graph, operations=operations))


def cache_file() -> Path:
    """Where results are kept."""
    named = os.environ.get("CLARY_PARALLEL_CACHE")
    return Path(named) if named else Path("~/.cache/clary-parallel/operations.json").expanduser()


def _measure(call: Call, microbatch: int, reaches: bool) -> float | None:
    """Seconds of a call's forward and backward without the cost of calling a function; None if it cannot run alone."""
    try:
        run = _alone(call, microbatch, reaches)
        run()
    except Exception:  # noqa: BLE001 (a layer of the user's may need anything: then its estimate stands)
        return None
    return max(_shortest(run) - _call_cost(), 1e-7)


def _alone(call: Call, microbatch: int, reaches: bool) -> Callable[[], Any]:
    """A compiled function that runs an operation like the call's, forwards and backwards."""
    node = call.outputs[0]._keras_history.operation._inbound_nodes[call.outputs[0]._keras_history.node_index]

    def zeros(value: Any) -> Any:
        return _zeros(value, microbatch) if isinstance(value, keras.KerasTensor) else value

    given = keras.tree.map_structure(zeros, (node.arguments.args, node.arguments.kwargs))
    operation = call.operation
    if isinstance(operation, keras.layers.Layer):
        operation = type(operation).from_config(operation.get_config())
        if "training" in inspect.signature(operation.call).parameters:
            given[1]["training"] = True
    arrays = [item for item in keras.tree.flatten(given) if tf.is_tensor(item)]
    operation(*given[0], **given[1])  # Makes the weights.
    weights = [variable.value for variable in getattr(operation, "trainable_variables", [])]
    sources = [item for item in arrays if item.dtype.is_floating and reaches]

    def run() -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*sources, *weights])
            made = operation(*given[0], **given[1])
            goals = [tensor for tensor in keras.tree.flatten(made) if tensor.dtype.is_floating]
        # What nobody takes would not be computed.
        gradients = tape.gradient(goals, [*sources, *weights])
        return keras.tree.flatten(made), [tf.convert_to_tensor(item) for item in gradients if item is not None]

    return tf.function(run, autograph=False)


def _shortest(run: Callable[[], Any]) -> float:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _REPEATS or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _call_cost() -> float:
    """What calling any function costs, which a stage pays once and not for each operation."""
    number = tf.zeros(())
    empty = tf.function(lambda: (number + 1.0,), autograph=False)
    empty()
    return _shortest(empty)


def _zeros(tensor: Any, microbatch: int) -> Any:
    first, *rest = (*tensor.shape,) or (1,)
    shape = [microbatch if first is None else first, *(1 if size is None else size for size in rest)]
    return tf.zeros(shape[: len(tensor.shape)], tensor.dtype)


def _key(call: Call, microbatch: int, reaches: bool) -> str:
    """What makes two calls alike: class, settings but for names and initial values, shapes, types, and the machine."""
    operation = call.operation
    if isinstance(operation, keras.layers.Layer):
        settings = {key: value for key, value in operation.get_config().items() if "initializer" not in key}
        settings.pop("name", None)
    else:
        settings = {
            key: value for key, value in vars(operation).items() if isinstance(value, _SIMPLE) and key != "name"
        }
    shapes = [([*tensor.shape], str(tensor.dtype)) for tensor in call.inputs]
    here = (platform.processor(), platform.machine(), tf.__version__, keras.__version__, _threads())
    kind = type(operation)
    told = json.dumps(
        [kind.__module__, kind.__name__, settings, shapes, microbatch, reaches, here], default=str, sort_keys=True
    )
    return f"{kind.__name__} {hashlib.blake2b(told.encode(), digest_size=12).hexdigest()}"


def _threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))


def _read(file: Path) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError):  # Not there yet, or broken off while it was written.
        return {}


def _write(file: Path, known: dict[str, float]) -> None:
    # A read-only home costs the next run the same pass again, and nothing else.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
            json.dump(known, new)
        Path(new.name).replace(file)

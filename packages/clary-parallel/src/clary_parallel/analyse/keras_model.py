"""Reading a Keras model's graph: each call of a layer (or Keras operation) is an operation.

Functional and Sequential models have their graph at hand; models inside models are opened. A subclassed model is called
once on symbolic inputs, which works as long as its `call` uses layers and `keras.ops` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np

from clary_parallel.analyse.cost import estimate_flops, estimate_seconds
from clary_parallel.graph import Graph, Operation

# Keras 3.11 and before refuse a model whose output is its input.
_FUNCTIONAL: Any = type(keras.Model(_input := keras.Input((1,)), keras.layers.Identity()(_input)))


class UntraceableError(ValueError):
    """A model, or a layer of it, whose graph cannot be read; the message names it and the way out."""


@dataclass(frozen=True)
class Call:
    """One call of a layer or Keras operation.

    Args:
        operation: The layer.
        inputs: Symbolic tensors that it takes.
        outputs: Symbolic tensors that it gives.
    """

    operation: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class TracedModel:
    """A model's calls and their graph, number by number.

    Args:
        graph: Operations with their costs for one micro-batch.
        calls: The call behind each operation of the graph.
        inputs: The model's symbolic inputs, in the order of `keras.tree.flatten`.
        outputs: The model's symbolic outputs, in the same order.
        structure: The outputs in the structure in which the model returns them.
    """

    graph: Graph
    calls: tuple[Call, ...]
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    structure: Any


def trace_model(model: Any, microbatch: int = 1, inputs: Any = None) -> TracedModel:
    """Read a model's graph.

    Args:
        model: A built Keras model. A subclassed one must have been called once, or `inputs` given.
        microbatch: Examples of a micro-batch, for sizes. Other unknown lengths count as 1.
        inputs: Symbolic inputs (`keras.Input`) for a subclassed model.

    Raises:
        UntraceableError: The graph cannot be read.
    """
    symbolic_inputs, symbolic_outputs = _symbolic(model, inputs)
    flat_inputs = tuple(keras.tree.flatten(symbolic_inputs))
    flat_outputs = tuple(keras.tree.flatten(symbolic_outputs))
    calls = _calls(flat_outputs)
    given = {id(tensor) for tensor in flat_inputs}
    calls = [Call(_source(tensor)[0], (), (tensor,)) for tensor in flat_inputs] + [
        call for call in calls if not any(id(tensor) in given for tensor in call.outputs)
    ]
    graph = _graph(calls, flat_inputs, flat_outputs, microbatch)
    return TracedModel(graph, tuple(calls), flat_inputs, flat_outputs, symbolic_outputs)


def _symbolic(model: Any, inputs: Any) -> tuple[Any, Any]:
    """Symbolic inputs and outputs between which there are only leaf layers."""
    if inputs is None and isinstance(model, keras.Sequential) and not model.built:
        raise UntraceableError(
            f"Model {model.name!r} is a Sequential without an input shape. Begin it with keras.Input(shape), or call "
            "model.build(shape)."
        )
    nested = any(isinstance(layer, keras.Model) for layer in model.layers)
    if _is_functional(model) and inputs is None and not nested:
        return list(model.inputs), _structured(model, model.outputs)
    if inputs is None:
        inputs = keras.tree.map_structure(_fresh_input, _structure_of_inputs(model))
    try:
        return inputs, _open(model, inputs)
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(
            f"Model {model.name!r} cannot be traced: {_first_line(error)}. Its call must use Keras layers and "
            "keras.ops only: wrap other TensorFlow calls in a keras.layers.Layer with compute_output_shape, which then "
            "stays in one piece, or build the model with the functional API."
        ) from error


def _open(model: Any, inputs: Any) -> Any:
    """Call a model on symbolic tensors, and models inside it too, so that only leaf layers leave a trace."""
    if not _is_functional(model):
        return model.call(inputs)
    values: dict[int, Any] = dict(zip((id(tensor) for tensor in model.inputs), keras.tree.flatten(inputs), strict=True))
    given = set(values)
    for call in _calls(tuple(model.outputs)):
        if all(id(tensor) in given for tensor in call.outputs):
            continue
        node = _node(call.outputs[0])

        def current(value: Any) -> Any:
            return values[id(value)] if isinstance(value, keras.KerasTensor) else value

        arguments, options = keras.tree.map_structure(current, (node.arguments.args, node.arguments.kwargs))
        if isinstance(call.operation, keras.Model):
            result = _open(call.operation, arguments[0] if arguments else options["inputs"])
        else:
            result = call.operation(*arguments, **options)
        for old, new in zip(call.outputs, keras.tree.flatten(result), strict=True):
            values[id(old)] = new
    return _structured(model, [values[id(tensor)] for tensor in model.outputs])


def _is_functional(model: Any) -> bool:
    """Whether the model's graph is at hand; it is not where a functional model's call was overridden."""
    if isinstance(model, keras.Sequential):
        return True
    return isinstance(model, _FUNCTIONAL) and type(model).call is _FUNCTIONAL.call


def _structured(model: Any, outputs: Sequence[Any]) -> Any:
    """Outputs in the structure in which a functional model returns them."""
    structure = getattr(model, "_outputs_struct", None)
    if structure is not None:
        return keras.tree.pack_sequence_as(structure, list(outputs))
    return outputs[0] if len(outputs) == 1 else list(outputs)


def _structure_of_inputs(model: Any) -> Any:
    """Symbolic inputs (or their shapes) of a model that was built or called."""
    if getattr(model, "inputs", None):
        return list(model.inputs)
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise UntraceableError(
            f"Model {model.name!r} is a subclassed model that was never called, so its input shapes are unknown. Call "
            "it once on an example batch, or pass inputs=keras.Input(...)."
        )
    found = next(iter(shapes.values())) if len(shapes) == 1 else shapes
    return _shapes_to_inputs(found)


def _shapes_to_inputs(shapes: Any) -> Any:
    if isinstance(shapes, dict):
        return {name: _shapes_to_inputs(shape) for name, shape in shapes.items()}
    if shapes and isinstance(shapes[0], list | tuple):
        return [_shapes_to_inputs(shape) for shape in shapes]
    return keras.Input(shape=tuple(shapes)[1:])


def _fresh_input(tensor: Any) -> Any:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _source(tensor: Any) -> tuple[Any, Any, Any]:
    """(operation, number of its node, number of the output) of a symbolic tensor."""
    history: tuple[Any, Any, Any] = tensor._keras_history
    return history


def _node(tensor: Any) -> Any:
    operation, number, _ = _source(tensor)
    return operation._inbound_nodes[number]


def _calls(outputs: Sequence[Any]) -> list[Call]:
    """Every call that outputs depend on, each after those it takes from (without recursion: models are deep)."""
    calls: list[Call] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, Iterator[Any]]] = []

    def enter(tensor: Any) -> None:
        node = _node(tensor)
        if id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, iter(node.arguments.keras_tensors)))

    for output in outputs:
        enter(output)
        while waiting:
            node, sources = waiting[-1]
            source = next(sources, None)
            if source is not None:
                enter(source)
                continue
            waiting.pop()
            calls.append(Call(node.operation, tuple(node.arguments.keras_tensors), tuple(node.outputs)))
    return calls


def _graph(calls: Sequence[Call], inputs: Sequence[Any], outputs: Sequence[Any], microbatch: int) -> Graph:
    producer = {id(tensor): index for index, call in enumerate(calls) for tensor in call.outputs}
    first_user: dict[int, int] = {}
    groups: dict[int, set[int]] = {}
    operations: list[Operation] = []
    names: dict[str, int] = {}
    reached = gradient_reaches(calls)
    for index, call in enumerate(calls):
        weights = list(getattr(call.operation, "weights", ()))
        own = 0
        for weight in weights:
            owner = first_user.setdefault(id(weight), index)
            if owner == index:
                own += _bytes(weight.shape, weight.dtype, 1)
            else:
                groups.setdefault(owner, {owner}).add(index)
        made = sum(_bytes(tensor.shape, tensor.dtype, microbatch) for tensor in call.outputs)
        flops = estimate_flops(call, microbatch)
        passes = 3 if reached[index] else 2 if _is_trained(call) else 1
        operations.append(
            Operation(
                name=_unique(call.operation.name, names),
                inputs=tuple(sorted({producer[id(tensor)] for tensor in call.inputs})),
                weight_bytes=own,
                output_bytes=made,
                activation_bytes=made if call.inputs else 0,
                seconds=estimate_seconds(flops, made, passes) if call.inputs else 0.0,
                flops=flops,
                kind=type(call.operation).__name__,
                replicated=index < len(inputs),
            )
        )
    together = tuple(tuple(sorted(group)) for group in _joined(list(groups.values())))
    return Graph(tuple(operations), tuple(sorted({producer[id(tensor)] for tensor in outputs})), together)


def gradient_reaches(calls: Sequence[Call]) -> list[bool]:
    """Whether the backward of each call goes on to its inputs: only where a weight before it is trained."""
    reached: list[bool] = []
    trained: set[int] = set()
    for call in calls:
        reached.append(any(id(tensor) in trained for tensor in call.inputs))
        if reached[-1] or _is_trained(call):
            trained.update(id(tensor) for tensor in call.outputs)
    return reached


def _is_trained(call: Call) -> bool:
    return bool(getattr(call.operation, "trainable_weights", ()))


def _joined(groups: list[set[int]]) -> list[set[int]]:
    """Groups that share a member become one."""
    joined: list[set[int]] = []
    for group in groups:
        apart = [other for other in joined if not other & group]
        for other in joined:
            if other & group:
                group = group | other
        joined = [*apart, group]
    return joined


def _unique(name: str, names: dict[str, int]) -> str:
    """The layer's name; at its second call name/1, then name/2, ..."""
    count = names.get(name, 0)
    names[name] = count + 1
    return f"{name}/{count}" if count else name


def _bytes(shape: Sequence[int | None], dtype: Any, microbatch: int) -> int:
    first, *rest = (*shape,) or (1,)
    sizes = [microbatch if first is None else first, *(1 if size is None else size for size in rest)]
    width = 2 if str(dtype) == "bfloat16" else 8 if str(dtype) == "string" else np.dtype(str(dtype)).itemsize
    return int(np.prod(sizes, dtype=np.int64)) * width


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0].rstrip('.')}"

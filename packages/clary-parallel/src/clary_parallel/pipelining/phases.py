"""One traced TensorFlow function cut into phases that are called one after the other.

A stage's forward, its backward and its gradients of weights are traced together, as one graph, and then cut: each phase
computes what no phase before it has, and hands on the tensors that later phases need. So a backward runs compiled,
with exactly the intermediate results that it needs saved, and without a gradient tape at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class Phases:
    """The phases of one traced function.

    Args:
        concrete: The traced function. Its captured variables are used as they are.
        fetches: For each phase the tensors of its graph that the phase returns.
        arguments: For each phase the placeholders of the graph that its caller supplies, in the order of the call.
        effects: For each phase the operations whose side effects (assignments to variables) belong to it.
    """

    def __init__(
        self,
        concrete: Any,
        fetches: Sequence[Sequence[Any]],
        arguments: Sequence[Sequence[Any]],
        effects: Sequence[Sequence[Any]],
    ) -> None:
        graph = concrete.graph
        captured = {internal.name: external for external, internal in graph.captures}
        definition = graph.as_graph_def()
        library = definition.library
        nodes = {node.name: node for node in definition.node}
        done: set[str] = set()
        parts: list[tuple[Any, list[str], list[str]]] = []
        for number, wanted in enumerate(fetches):
            roots = [*(tensor.op for tensor in wanted), *effects[number]]
            part, crossing = _part(roots, done)
            # A result that came about on the way to an earlier phase's is handed on like any other.
            ready = [tensor.name for tensor in wanted if tensor.op.name in done and tensor.name not in crossing]
            crossing.extend(dict.fromkeys(ready))
            parts.append((_definition(part, nodes, crossing, library, definition.versions), part, crossing))
            done.update(part)
        self._functions: list[Callable[..., Any]] = []
        self._takes: list[list[str]] = []
        self._gives: list[list[str]] = []
        self._arguments = [[placeholder.name for placeholder in group] for group in arguments]
        for number, (partial, part, crossing) in enumerate(parts):
            own, inside = self._arguments[number], set(part)
            takes = [name for name in crossing if name not in captured and name not in own]
            later = [name for _, _, others in parts[number + 1 :] for name in others]
            gives = list(dict.fromkeys(name for name in later if name.split(":")[0] in inside))
            self._takes.append(takes)
            self._gives.append(gives)
            returns = [tensor.name for tensor in fetches[number]] + gives
            self._functions.append(_function(partial, crossing, own + takes, captured, returns, graph))

    def call(self, phase: int, arguments: Sequence[Any], saved: dict[str, Any]) -> list[Any]:
        """Run a phase of one micro-batch; phases are run in order.

        Args:
            phase: Which one.
            arguments: Tensors for the phase's placeholders.
            saved: What earlier phases of this micro-batch handed on; changed: what this one hands on is added, and what
                no later phase needs is dropped.

        Returns:
            The phase's fetches.
        """
        results = self._functions[phase](*arguments, *[saved[name] for name in self._takes[phase]])
        gives = self._gives[phase]
        fetched = len(results) - len(gives)
        saved.update(zip(gives, results[fetched:], strict=True))
        saved.update(zip(self._arguments[phase], arguments, strict=True))
        later = {name for takes in self._takes[phase + 1 :] for name in takes}
        for name in [name for name in saved if name not in later]:
            del saved[name]
        return results[:fetched]


def _part(roots: Sequence[Any], done: set[str]) -> tuple[list[str], list[str]]:
    """Names of the operations that a phase must run, and of the tensors that it takes from elsewhere."""
    part: dict[str, None] = {}
    crossing: dict[str, None] = {}
    waiting = list(roots)
    while waiting:
        op = waiting.pop()
        if op.name in part or op.name in done or op.type == "Placeholder":
            continue
        part[op.name] = None
        for tensor in op.inputs:
            if tensor.op.name in done or tensor.op.type == "Placeholder":
                crossing[tensor.name] = None
            else:
                waiting.append(tensor.op)
        waiting.extend(op.control_inputs)
    return list(part), list(crossing)


def _definition(
    part: Sequence[str], nodes: dict[str, Any], crossing: Sequence[str], library: Any, versions: Any
) -> Any:
    """The phase's operations as a graph of their own, in which what it takes from elsewhere is left to be mapped."""
    definition = tf.compat.v1.GraphDef()
    definition.library.CopyFrom(library)
    definition.versions.CopyFrom(versions)
    inside = set(part)
    outside = {_short(name): f"outside_{number}" for number, name in enumerate(crossing)}
    for name in part:
        node = definition.node.add()
        node.CopyFrom(nodes[name])
        # Colocation with an operation of another phase; where a phase runs, all of it runs.
        node.attr.pop("_class", None)
        del node.input[:]
        for source in nodes[name].input:
            if source.startswith("^"):
                if source[1:] in inside:
                    node.input.append(source)
            elif source.split(":")[0] in inside:
                node.input.append(source)
            else:
                node.input.append(outside[source])
    return definition


def _function(
    definition: Any,
    crossing: list[str],
    parameters: list[str],
    captured: dict[str, Any],
    returns: list[str],
    graph: Any,
) -> Callable[..., Any]:
    inside = {node.name for node in definition.node}
    specs = [tf.TensorSpec(_tensor(graph, name).shape, _tensor(graph, name).dtype) for name in parameters]
    for number, name in enumerate(crossing):
        placeholder = definition.node.add()
        placeholder.name, placeholder.op = f"outside_{number}", "Placeholder"
        placeholder.attr["dtype"].type = _tensor(graph, name).dtype.as_datatype_enum

    def body(*values: Any) -> list[Any]:
        at_hand = {**captured, **dict(zip(parameters, values, strict=True))}
        here = tf.compat.v1.get_default_graph()
        mapped = {f"outside_{number}:0": here.capture(at_hand[name]) for number, name in enumerate(crossing)}
        computed = [name for name in returns if name.split(":")[0] in inside]
        found = dict(
            zip(
                computed,
                tf.graph_util.import_graph_def(definition, mapped, return_elements=computed, name=""),
                strict=True,
            )
        )
        return [found[name] if name in found else tf.identity(at_hand[name]) for name in returns]

    return tf.function(body, input_signature=specs, autograph=False).get_concrete_function()


def _short(name: str) -> str:
    """A tensor's name as definitions of nodes write it: without ':0'."""
    return name[:-2] if name.endswith(":0") else name


def _tensor(graph: Any, name: str) -> Any:
    return graph.get_tensor_by_name(name)

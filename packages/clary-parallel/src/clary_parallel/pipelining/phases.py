"""One traced TensorFlow function cut into phases that are called one after the other.

A stage's forward, its backward and its gradients of weights are traced together, as one graph, and then cut: each phase
computes what no phase before it has, and hands on the tensors that later phases need. So a backward runs compiled,
with exactly the intermediate results that it needs saved, and without a gradient tape at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


class Phases:
    """The phases of one traced function.

    Args:
        concrete: The traced function. Its captured variables are used as they are.
        fetches: For each phase the tensors of its graph that the phase returns.
        arguments: For each phase the placeholders of the graph that its caller supplies, in the order of the call.
        effects: For each phase the operations whose side effects (assignments to variables) belong to it.
        first: Side effects of the last phase when a step runs it for the first time.
        later: Side effects of the last phase when a step runs it again.
        xla: Whether XLA compiles the phases.
    """

    def __init__(
        self,
        concrete: Any,
        fetches: Sequence[Sequence[Any]],
        arguments: Sequence[Sequence[Any]],
        effects: Sequence[Sequence[Any]],
        first: Sequence[Any] = (),
        later: Sequence[Any] = (),
        xla: bool = False,
    ) -> None:
        cutter = _Cutter(concrete, arguments, xla)
        done: set[str] = set()
        parts: list[_Part] = []
        for wanted, changes in zip(fetches[:-1], effects[:-1], strict=True):
            parts.append(cutter.part(wanted, changes, done, set()))
            done.update(parts[-1].names)
        # The two ways to run the last phase part only in their own effects, which may not draw in the other's.
        ends = [
            cutter.part(fetches[-1], [*effects[-1], *own], done, {op.name for op in other})
            for own, other in (((first, later), (later, first)) if later else (((), ()),))
        ]
        self._two_ends = len(ends) == 2
        self._takes: list[list[str]] = []
        self._gives: list[list[str]] = []
        self._functions: list[Any] = []
        self._kept: list[tuple[str, ...]] = []
        self._arguments = [[placeholder.name for placeholder in group] for group in arguments]
        rows = [*enumerate(parts), *((len(parts), end) for end in ends)]
        for number, part in rows:
            after = [crossing for other, each in rows if other > number for crossing in each.crossing]
            takes = [name for name in part.crossing if cutter.is_saved(name, self._arguments[number])]
            gives = list(dict.fromkeys(name for name in after if name.split(":")[0] in part.names))
            self._takes.append(takes)
            self._gives.append(gives)
            self._kept.append(tuple(dict.fromkeys(name for name in after if cutter.is_saved(name, []))))
            returns = [tensor.name for tensor in fetches[number]] + gives
            self._functions.append(cutter.function(part, self._arguments[number] + takes, returns))

    def call(self, phase: int, arguments: Sequence[Any], saved: dict[str, Any], first: bool = False) -> list[Any]:
        """Run a phase of one micro-batch; phases are run in order.

        Args:
            phase: Which one.
            arguments: Tensors for the phase's placeholders.
            saved: What earlier phases of this micro-batch handed on; changed: what this one hands on is added, and what
                no later phase needs is dropped.
            first: Whether the last phase has the side effects of the first time.

        Returns:
            The phase's fetches.
        """
        last = phase == len(self._arguments) - 1
        row = phase + (last and self._two_ends and not first)
        function = self._functions[row]
        taken = [*arguments, *[saved[name] for name in self._takes[row]]]
        # The public call binds its arguments to a signature, which takes longer than running a small stage.
        results = function._call_flat(taken, function.captured_inputs)
        gives = self._gives[row]
        fetched = len(results) - len(gives)
        if last:
            saved.clear()
            return results
        known = {**saved, **dict(zip(self._arguments[phase], arguments, strict=True))}
        known.update(zip(gives, results[fetched:], strict=True))
        saved.clear()
        saved.update((name, known[name]) for name in self._kept[row] if name in known)
        return results[:fetched]


@dataclass(frozen=True)
class _Part:
    """What one phase runs: its operations, and the tensors that it takes from elsewhere."""

    names: frozenset[str]
    order: list[str]
    crossing: list[str]


class _Cutter:
    """Cuts the graph of one traced function."""

    def __init__(self, concrete: Any, arguments: Sequence[Sequence[Any]], xla: bool) -> None:
        self.graph, self.xla = concrete.graph, xla
        self.captured = {internal.name: external for external, internal in self.graph.captures}
        definition = self.graph.as_graph_def()
        self.library, self.versions = definition.library, definition.versions
        self.nodes = {node.name: node for node in definition.node}

    def part(self, wanted: Sequence[Any], effects: Sequence[Any], done: set[str], without: set[str]) -> _Part:
        """The part that computes what is wanted, as far as earlier parts have not."""
        order, crossing = _part([*(tensor.op for tensor in wanted), *effects], done, without)
        # A result that came about on the way to an earlier phase's is handed on like any other.
        ready = [tensor.name for tensor in wanted if tensor.op.name in done and tensor.name not in crossing]
        return _Part(frozenset(order), order, [*crossing, *dict.fromkeys(ready)])

    def is_saved(self, name: str, arguments: Sequence[str]) -> bool:
        """Whether a tensor from elsewhere is one that an earlier phase saved."""
        return name not in self.captured and name not in arguments

    def function(self, part: _Part, parameters: list[str], returns: list[str]) -> Any:
        """A part as a function of its own."""
        definition = _definition(part.order, self.nodes, part.crossing, self.library, self.versions)
        return _function(definition, part.crossing, parameters, self.captured, returns, self.graph, self.xla)


def _part(roots: Sequence[Any], done: set[str], without: set[str]) -> tuple[list[str], list[str]]:
    """Names of the operations that a phase must run, and of the tensors that it takes from elsewhere."""
    part: dict[str, None] = {}
    crossing: dict[str, None] = {}
    waiting = list(roots)
    while waiting:
        op = waiting.pop()
        if op.name in part or op.name in done or op.name in without or op.type == "Placeholder":
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
    xla: bool,
) -> Any:
    inside = {node.name for node in definition.node}
    specs = [tf.TensorSpec(_tensor(graph, name).shape, _tensor(graph, name).dtype) for name in parameters]

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

    return tf.function(body, input_signature=specs, autograph=False, jit_compile=xla or None).get_concrete_function()


def _short(name: str) -> str:
    """A tensor's name as definitions of nodes write it: without ':0'."""
    return name[:-2] if name.endswith(":0") else name


def _tensor(graph: Any, name: str) -> Any:
    return graph.get_tensor_by_name(name)

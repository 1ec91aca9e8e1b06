"""One traced TensorFlow function cut into phases that are called one after the other.

A stage's forward, its backward and its gradients of weights are traced together, as one graph, and then cut: each phase
computes what no phase before it has, and hands on the tensors that later phases need. So a backward runs compiled,
with exactly the intermediate results that it needs saved, and without a gradient tape at run time.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


class Phases:
    """The phases of one traced function, and runs of several of them as one.

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
        self._cutter = _Cutter(concrete, xla)
        self._fetches, self._arguments, self._effects = fetches, arguments, effects
        self._last = len(fetches) - 1
        # The two ways to run the last phase part only in their own effects, which may not draw in the other's.
        self._ends = {True: (first, later), False: (later, first)} if later else {False: ((), ())}
        self._parts: dict[tuple[int, int, bool], _Part] = {}
        self._rows: dict[tuple[int, int, bool], _Row] = {}
        # What earlier phases have done, by the number of phases; and what each phase takes.
        self._done: list[frozenset[str]] = [frozenset()]
        crossing: list[list[str]] = []
        for number in range(len(fetches)):
            parts = [self._part(number, number, end) for end in (self._ends if number == self._last else (False,))]
            self._done.append(self._done[-1].union(*(part.names for part in parts)))
            crossing.append([name for part in parts for name in part.crossing])
        self._after = [[name for each in crossing[number:] for name in each] for number in range(len(fetches) + 1)]

    def call(
        self,
        phase: int,
        arguments: Sequence[Any],
        saved: dict[str, Any],
        first: bool = False,
        through: int | None = None,
    ) -> list[Any]:
        """Run a phase of one micro-batch, or several as one; phases are run in order.

        A phase hands on the same tensors however it is run, so each micro-batch may run its phases as it likes. A
        phase's function is made when it is first called.

        Args:
            phase: Which one.
            arguments: Tensors for the placeholders of the phases that are run.
            saved: What earlier phases of this micro-batch handed on; changed: what this one hands on is added, and what
                no later phase needs is dropped.
            first: Whether the last phase has the side effects of the first time.
            through: The last of the phases that are run as one; by default `phase` alone is run.

        Returns:
            The fetches of the phases.
        """
        end = phase if through is None else through
        key = (phase, end, first and end == self._last and True in self._ends)
        row = self._rows.get(key) or self._make_row(*key)
        taken = [*arguments, *[saved[name] for name in row.takes]]
        # The public call binds its arguments to a signature, which takes longer than running a small stage.
        results = row.function._call_flat(taken, row.function.captured_inputs)
        if end == self._last:
            saved.clear()
            return results
        fetched = len(results) - len(row.gives)
        known = {**saved, **dict(zip(row.arguments, arguments, strict=True))}
        known.update(zip(row.gives, results[fetched:], strict=True))
        saved.clear()
        saved.update((name, known[name]) for name in row.kept if name in known)
        return results[:fetched]

    def _part(self, begin: int, end: int, first: bool) -> _Part:
        """What phases run that are run as one."""
        key = begin, end, first
        if key not in self._parts:
            self._parts[key] = self._find_part(*key)
        return self._parts[key]

    def _find_part(self, begin: int, end: int, first: bool) -> _Part:
        wanted = [tensor for group in self._fetches[begin : end + 1] for tensor in group]
        changes = [op for group in self._effects[begin : end + 1] for op in group]
        own, other = self._ends[first] if end == self._last else ((), ())
        return self._cutter.part(wanted, [*changes, *own], self._done[begin], {op.name for op in other})

    def _make_row(self, begin: int, end: int, first: bool) -> _Row:
        part = self._part(begin, end, first)
        arguments = [item.name for group in self._arguments[begin : end + 1] for item in group]
        after, is_saved = self._after[end + 1], self._cutter.is_saved
        takes = [name for name in part.crossing if is_saved(name, arguments)]
        gives = list(dict.fromkeys(name for name in after if name.split(":")[0] in part.names))
        kept = tuple(dict.fromkeys(name for name in after if is_saved(name, [])))
        returns = [tensor.name for group in self._fetches[begin : end + 1] for tensor in group] + gives
        function = self._cutter.function(part, arguments + takes, returns)
        row = self._rows[begin, end, first] = _Row(function, arguments, takes, gives, kept)
        return row


@dataclass(frozen=True)
class _Row:
    """Phases that are run as one: their function, and names of what it is called with, hands on and leaves kept."""

    function: Any
    arguments: list[str]
    takes: list[str]
    gives: list[str]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """What one phase runs: its operations, and the tensors that it takes from elsewhere."""

    names: frozenset[str]
    order: list[str]
    crossing: list[str]


class _Cutter:
    """Cuts the graph of one traced function."""

    def __init__(self, concrete: Any, xla: bool) -> None:
        self.graph, self.xla = concrete.graph, xla
        self.captured = {internal.name: external for external, internal in self.graph.captures}
        definition = self.graph.as_graph_def()
        self.library, self.versions = definition.library, definition.versions
        self.nodes = {node.name: node for node in definition.node}

    def part(self, wanted: Sequence[Any], effects: Sequence[Any], done: Set[str], without: Set[str]) -> _Part:
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


def _part(roots: Sequence[Any], done: Set[str], without: Set[str]) -> tuple[list[str], list[str]]:
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

    function = tf.function(body, input_signature=specs, autograph=False, jit_compile=xla or None)
    with tf.init_scope():  # A phase may be called first while another function is traced, to which it does not belong.
        return function.get_concrete_function()


def _short(name: str) -> str:
    """A tensor's name as definitions of nodes write it: without ':0'."""
    return name[:-2] if name.endswith(":0") else name


def _tensor(graph: Any, name: str) -> Any:
    return graph.get_tensor_by_name(name)

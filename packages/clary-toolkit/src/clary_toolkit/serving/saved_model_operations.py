"""What a signature of a SavedModel does besides computing its outputs from its inputs: read off the graph.

An engine that leaves such operations out gives the same outputs on any sample, and still is not the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_KEEPS = ("Assign", "ResourceScatter", "Stack", "Queue", "Barrier", "Print", "WriteFile", "PyFunc", "EagerPyFunc")
_KEEPS_WITHIN = ("TableInsert", "TableImport", "TableRemove", "Summary", "ResourceApply")
_CHECKS = ("Assert", "CheckNumerics")
_RANDOM = (
    "Random",
    "StatefulUniform",
    "StatefulStandardNormal",
    "StatefulTruncatedNormal",
    "Multinomial",
    "StatelessRandom",
)


def objection(meta_graph: Any, outputs: Iterable[str]) -> str:
    """Why the outputs of these tensors' graph are more than a function of the inputs; empty where they are not.

    Args:
        meta_graph: the MetaGraphDef.
        outputs: the tensors' names in its graph.
    """
    for operation in sorted(_operations(meta_graph.graph_def, outputs)):
        plain = operation.rstrip("0123456789")
        if operation.startswith(_KEEPS) or any(part in operation for part in _KEEPS_WITHIN):
            return "It keeps something between requests ({}).".format(operation)
        if plain in _CHECKS:
            return "It checks values as it computes ({}).".format(operation)
        if operation.startswith(_RANDOM) or plain == "RngReadAndSkip":
            return "It computes with random numbers ({}).".format(operation)
    return ""


def _operations(graph: Any, outputs: Iterable[str]) -> set[str]:
    """The names of all operations that the tensors need, those within functions as well."""
    nodes = {node.name: node for node in graph.node}
    functions = {function.signature.name: function for function in graph.library.function}
    pending = [name for name in map(_node_of, outputs) if name in nodes]
    seen = set(pending)
    found: set[str] = set()
    called: list[str] = []
    while pending:
        node = nodes[pending.pop()]
        found.add(node.op)
        called += _called(node)
        fresh = {name for name in map(_node_of, node.input) if name in nodes} - seen
        seen |= fresh
        pending.extend(fresh)
    entered: set[str] = set()
    while called:
        name = called.pop()
        if name not in functions or name in entered:
            continue
        entered.add(name)
        for node in functions[name].node_def:  # all of them: functions are pruned when they are made
            found.add(node.op)
            called += _called(node)
    return found - set(functions)


def _called(node: Any) -> list[str]:
    """The functions that a node calls: by its own name, or as attributes, as loops and conditions do."""
    names = [node.op]
    for value in node.attr.values():
        if value.HasField("func"):
            names.append(value.func.name)
        elif value.HasField("list"):
            names += [function.name for function in value.list.func]
    return names


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]

"""A user's step function, traced for one micro-batch and cut around the model's call.

What comes before the call computes the model's inputs; the call itself runs in stages; what comes after it (losses,
metrics, whatever is returned) is computed from the model's outputs, which stand in the traced graph as placeholders.
`get_gradients` differentiates the loss as far as these placeholders; from there the stages go on, and the gradients
of variables stand in the graph as placeholders too. So no line of the user's function is interpreted: it is TensorFlow
that traces it, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clary_parallel.frameworks import tf
from clary_parallel.modelparallel.copies import handle_of
from clary_parallel.modelparallel.parts import Parts, Way
from clary_parallel.modelparallel.tracing import StepError, Tracing, is_tensor, traced, value_of
from clary_parallel.pipelining.phases import Phases

_READS = ("ReadVariableOp", "ResourceGather", "VarHandleOp", "VarIsInitializedOp", "Placeholder", "Const")
"""Operations that leave nothing behind."""


@dataclass(frozen=True)
class Leaf:
    """One value that the step function returns.

    Args:
        kind: "tensor" (computed after the model), "gradient" (of a variable of this rank), "derived" (computed from
            gradients) or "static" (no tensor).
        number: Which one among the fetches of its phase, or among the variables with gradients.
        value: The value itself, if static.
        shape: Static shape for one micro-batch.
        dtype: TensorFlow type, of tensors.
    """

    kind: str
    number: int = -1
    value: Any = None
    shape: Any = None
    dtype: Any = None


@dataclass(frozen=True)
class Cut:
    """A step function for one shape of micro-batch.

    Args:
        parts: The model's parts.
        way: The way in which the function calls the model.
        phases: Before the model (gives its inputs), after it (gives tensors), after the backward.
        seeds: From arguments and outputs to the gradients of the loss by outputs; None if there is no backward.
        seeded: Numbers of the outputs that have such a gradient.
        structure: What the function returns, with numbers of leaves.
        leaves: Its leaves.
        variables: Variables of this rank for which gradients are returned.
        direct: Pairs of a variable's number and the fetch that holds its gradient around the model.
        outside: Variables of the model that the function reads outside the model's call.
        changes_state: Whether what comes after the model changes variables, prints or checks.
        handles: Handles of all variables that running the function reads or changes on this rank.
    """

    parts: Parts
    way: Way
    phases: Phases
    seeds: Phases | None
    seeded: tuple[int, ...]
    structure: Any
    leaves: tuple[Leaf, ...]
    variables: tuple[Any, ...]
    direct: tuple[tuple[int, int], ...]
    outside: tuple[Any, ...]
    changes_state: bool
    handles: tuple[Any, ...]

    @property
    def derives(self) -> bool:
        """Whether something is computed from gradients inside the function."""
        return any(leaf.kind == "derived" for leaf in self.leaves)


def cut(
    function: Callable[..., Any],
    specs: Sequence[Any],
    rebuild: Callable[[Sequence[Any]], Any],
    microbatch: int | None,
) -> Cut:
    """Trace a step function and cut it.

    Args:
        function: The user's function, converted by AutoGraph already.
        specs: `tf.TensorSpec` of its tensors, for one micro-batch.
        rebuild: From tensors to (arguments, options) of the function.
        microbatch: Examples of a micro-batch; None if unknown yet.
    """
    seen: dict[str, Any] = {}

    def whole(*tensors: Any) -> Any:
        tracing = Tracing(tf.compat.v1.get_default_graph(), microbatch)
        arguments, options = rebuild(tensors)
        with traced(tracing):
            result = function(*arguments, **options)
        seen["tracing"] = tracing
        seen["returned"] = _returned(tracing, result)
        return [tensor for tensor in seen["returned"].tensors if tensor.op.type != "Placeholder"]

    def trace() -> Any:
        with tf.init_scope():
            return tf.function(whole, input_signature=list(specs), autograph=False).get_concrete_function()

    concrete = trace()
    parts = seen["tracing"].parts
    if parts is not None and any(parts.dropped(external) for external, _ in concrete.graph.captures):
        # It read variables before it called the model, which was parted then: now it reads copies of them.
        concrete = trace()
    return _assemble(concrete, seen["tracing"], seen["returned"], len(specs))


@dataclass
class _Returned:
    structure: Any = None
    leaves: list[Leaf] = field(default_factory=list[Leaf])
    tensors: list[Any] = field(default_factory=list[Any])
    derived: list[Any] = field(default_factory=list[Any])


def _returned(tracing: Tracing, result: Any) -> _Returned:
    returned = _Returned()
    flat = tf.nest.flatten(result)
    marks = {id(placeholder): number for number, (_, placeholder) in enumerate(tracing.gradients)}
    gradients = {placeholder.op.name for _, placeholder in tracing.gradients}
    for item in flat:
        if isinstance(item, tf.IndexedSlices):
            item = tf.convert_to_tensor(item)
        if not is_tensor(item):
            returned.leaves.append(Leaf("static", value=item))
            continue
        tensor = item if tf.is_tensor(item) else tf.convert_to_tensor(value_of(item))
        if id(tensor) in marks:
            returned.leaves.append(Leaf("gradient", marks[id(tensor)], shape=tensor.shape, dtype=tensor.dtype))
            continue
        tensor = tf.identity(tensor)
        if _reaches(tensor.op, gradients):
            returned.leaves.append(Leaf("derived", len(returned.derived), shape=tensor.shape, dtype=tensor.dtype))
            returned.derived.append(tensor)
        else:
            returned.leaves.append(Leaf("tensor", len(returned.tensors), shape=tensor.shape, dtype=tensor.dtype))
            returned.tensors.append(tensor)
    returned.structure = tf.nest.pack_sequence_as(result, list(range(len(flat))))
    return returned


def _assemble(concrete: Any, tracing: Tracing, returned: _Returned, count: int) -> Cut:
    parts, way = tracing.parts, tracing.way
    if parts is None or way is None:
        raise StepError(
            "A function under @smp.step must call an smp.DistributedModel, and this one does not. Leave the decorator "
            "out, or use tf.function."
        )
    if not returned.leaves:
        raise StepError("A function under @smp.step must return something that depends on its smp.DistributedModel.")
    arguments = list(concrete.inputs[:count])
    gradients = {placeholder.op.name for _, placeholder in tracing.gradients}
    effects = [op for op in concrete.graph.control_outputs if op.type not in _READS]
    late = [op for op in effects if _reaches(op, gradients)]
    if late:
        raise StepError(
            "A function under @smp.step changes variables with its gradients (optimizer.apply_gradients?), which would "
            "happen once for each micro-batch. Return the gradients and apply them outside: "
            "[gradient.accumulate() for gradient in gradients]."
        )
    tensors = [*returned.tensors, *(gradient for _, gradient in tracing.direct)]
    phases = Phases(
        concrete,
        [tracing.inputs, tensors, returned.derived],
        [arguments, tracing.outputs, [placeholder for _, placeholder in tracing.gradients]],
        [[], effects, []],
    )
    seeds, seeded = None, tuple(number for number, seed in enumerate(tracing.seeds) if seed is not None)
    if tracing.loss is not None:
        wanted = [tf.convert_to_tensor(tracing.seeds[number]) for number in seeded]
        seeds = Phases(concrete, [wanted], [[*arguments, *tracing.outputs]], [[]])
    captured = [external for external, _ in concrete.graph.captures if external.dtype == tf.resource]
    own = [value_of(variable).handle for variable in parts.variables()]
    own += [parts.gradient_sum(variable).handle for variable, _ in tracing.gradients]
    handles = {id(handle) for handle in captured}
    outside = tuple(variable for variable, _ in parts.all_variables() if id(handle_of(variable)) in handles)
    return Cut(
        parts=parts,
        way=way,
        phases=phases,
        seeds=seeds,
        seeded=seeded,
        structure=returned.structure,
        leaves=tuple(returned.leaves),
        variables=tuple(variable for variable, _ in tracing.gradients),
        direct=tuple((number, len(returned.tensors) + place) for place, (number, _) in enumerate(tracing.direct)),
        outside=outside,
        changes_state=bool(effects),
        handles=tuple({id(handle): handle for handle in (*own, *captured)}.values()),
    )


def _reaches(op: Any, names: set[str]) -> bool:
    """Whether an operation depends on any of some operations."""
    seen: set[str] = set()
    waiting = [op]
    while waiting:
        here = waiting.pop()
        if here.name in names:
            return True
        if here.name not in seen:
            seen.add(here.name)
            waiting.extend(tensor.op for tensor in here.inputs)
    return False

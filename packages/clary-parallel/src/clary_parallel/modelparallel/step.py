"""The decorator of step functions: splits their tensors into micro-batches and runs them over the model's stages."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clary_parallel.data import graph
from clary_parallel.errors import NotOffered
from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel import job
from clary_parallel.modelparallel.cutting import Cut, cut
from clary_parallel.modelparallel.running import Program
from clary_parallel.modelparallel.step_output import StepOutput, Total
from clary_parallel.modelparallel.tracing import StepError

_IGNORED = ("reduce_retracing", "experimental_relax_shapes", "experimental_autograph_options")


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor stands in a call's structure: its number, and the axis along which it is split."""

    number: int
    axis: int | None


def step(
    function: Callable[..., Any] | None = None,
    *,
    non_split_inputs: Sequence[str] | None = None,
    input_split_axes: Mapping[str, int] | None = None,
    input_signature: Sequence[Any] | None = None,
    autograph: bool = True,
    **options: Any,
) -> Any:
    """Run a function once for each micro-batch, its smp.DistributedModel in stages over the ranks.

    Args:
        function: A forward pass, with or without gradients. Calls one smp.DistributedModel once.
        non_split_inputs: Names of arguments that every micro-batch gets whole.
        input_split_axes: The batch axis of arguments for which it is not the first.
        input_signature: As of tf.function, for whole batches.
        autograph: As of tf.function.
        options: Other arguments of tf.function.

    Returns:
        The function; it returns a `StepOutput` for each tensor.

    Raises:
        NotOffered: An option that would compile the function as one piece.
    """
    for name in options:
        if name in ("jit_compile", "experimental_compile"):
            if options[name]:
                raise NotOffered(
                    f"smp.step({name}=True) is not offered by Clary: the function is cut into stages. Set the "
                    'parameter "xla": True, or call tf.config.optimizer.set_jit(True).'
                )
        elif name not in _IGNORED:
            raise NotOffered(f"smp.step has no argument {name!r}: it takes those of tf.function but jit_compile.")

    def decorate(plain: Callable[..., Any]) -> Any:
        return _Step(plain, tuple(non_split_inputs or ()), dict(input_split_axes or {}), input_signature, autograph)

    return decorate if function is None else decorate(function)


class _Step:
    """A decorated function."""

    def __init__(
        self,
        plain: Callable[..., Any],
        whole: tuple[str, ...],
        axes: dict[str, int],
        signature: Sequence[Any] | None,
        autograph: bool,
    ) -> None:
        functools.update_wrapper(self, plain)
        self._name = plain.__name__
        self._signature = inspect.signature(plain)
        self._specs = list(signature) if signature is not None else None
        self._whole, self._axes = whole, axes
        for name in (*whole, *axes):
            if name not in self._signature.parameters:
                raise StepError(
                    f"smp.step is told of an argument {name!r}, which {plain.__name__} has not. It has: "
                    f"{', '.join(self._signature.parameters)}."
                )
        convert: Any = tf.__internal__.autograph
        self._function = convert.tf_convert(plain, convert.control_status_ctx()) if autograph else plain
        self._cuts: dict[Any, Cut] = {}
        self._programs: dict[Any, Program] = {}

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        count = job.current().parameters.microbatches
        structure, tensors = self._split_call(arguments, options)
        axes = [slot.axis for slot in _slots(structure)]
        specs = [_spec(tensor, axis, count) for tensor, axis in zip(tensors, axes, strict=True)]
        found = self._cut(structure, specs)
        if tf.executing_eagerly():
            return self._eager(found, structure, tensors, axes, count)
        return self._in_graph(found, structure, tensors, axes, count)

    def _split_call(self, arguments: Any, options: Any) -> tuple[Any, list[Any]]:
        """The call with slots where its tensors were, and the tensors."""
        bound = self._signature.bind(*arguments, **options)
        bound.apply_defaults()
        tensors: list[Any] = []
        specs = iter(self._specs or ())

        def slot(item: Any, axis: int | None) -> Any:
            if hasattr(item, "smp_slice"):
                raise NotOffered(
                    f"smp.step does not call smp_slice of {type(item).__name__}. Give the step the tensors in it."
                )
            if not (tf.is_tensor(item) or isinstance(item, np.ndarray | tf.Variable | keras.Variable)):
                return item
            value: Any = item.value if isinstance(item, keras.Variable) else item
            spec = next(specs, None)
            tensor = tf.convert_to_tensor(value, spec.dtype) if spec is not None else tf.convert_to_tensor(value)
            if spec is not None and not spec.shape.is_compatible_with(tensor.shape):
                raise StepError(
                    f"The input_signature of {self._name} wants a tensor of shape {spec.shape}. Received: "
                    f"{tensor.shape}."
                )
            tensors.append(tensor)
            return _Tensor(len(tensors) - 1, axis if tensor.shape.rank != 0 else None)

        filled: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            axis = None if name in self._whole else self._axes.get(name, 0)
            filled[name] = tf.nest.map_structure(functools.partial(slot, axis=axis), value)
        return filled, tensors

    def _cut(self, structure: Any, specs: list[Any]) -> Cut:
        key = (
            repr(tf.nest.map_structure(_identity, structure)),
            tuple((tuple(spec.shape.as_list()), spec.dtype.name) for spec in specs),
        )
        if key not in self._cuts:
            slots = _slots(structure)
            sizes = [spec.shape[slot.axis] for spec, slot in zip(specs, slots, strict=True) if slot.axis is not None]

            def rebuild(tensors: Sequence[Any]) -> Any:
                def filled(item: Any) -> Any:
                    return tensors[item.number] if isinstance(item, _Tensor) else item

                bound = self._signature.bind_partial()
                bound.arguments.update(
                    {name: tf.nest.map_structure(filled, value) for name, value in structure.items()}
                )
                return bound.args, bound.kwargs

            self._cuts[key] = cut(self._function, specs, rebuild, sizes[0] if sizes else None)
        return self._cuts[key]

    def _program(self, structure: Any, tensors: Sequence[Any], axes: Sequence[int | None], count: int) -> Program:
        """The program for tensors whose shapes are all known."""
        specs = [_spec(tensor, axis, count) for tensor, axis in zip(tensors, axes, strict=True)]
        found = self._cut(structure, specs)
        key = id(found)
        if key not in self._programs:
            self._programs[key] = Program(found)
        return self._programs[key]

    def _eager(self, found: Cut, structure: Any, tensors: list[Any], axes: list[int | None], count: int) -> Any:
        program = self._program(structure, tensors, axes, count)
        rows, kept = program.run(_microbatches(tensors, axes, count), keep=True)
        columns = [list(column) for column in zip(*rows, strict=True)]
        gradients = [list(column) for column in zip(*kept, strict=True)]
        first_derived = len(found.variables)

        def output(number: int) -> Any:
            leaf = found.leaves[number]
            if leaf.kind == "static":
                return leaf.value
            if leaf.kind == "tensor":
                return StepOutput(columns[leaf.number], count)
            place = leaf.number if leaf.kind == "gradient" else first_derived + leaf.number
            return StepOutput(gradients[place], count)

        return tf.nest.map_structure(output, found.structure)

    def _in_graph(self, found: Cut, structure: Any, tensors: list[Any], axes: list[int | None], count: int) -> Any:
        """The step as one operation of the graph that calls it."""
        values = [leaf for leaf in found.leaves if leaf.kind == "tensor"]
        derived = [leaf for leaf in found.leaves if leaf.kind == "derived"]
        wanted = {"keep": bool(derived)}
        means: set[int] = set()
        left: dict[str, Any] = {}

        def run(*arrays: Any) -> list[Any]:
            program = self._program(structure, arrays, axes, count)
            rows, kept = program.run(_microbatches(arrays, axes, count), keep=wanted["keep"], means=means)
            left["kept"] = kept
            given = [row[leaf.number] for leaf in values for row in rows]
            given += [row[len(found.variables) + leaf.number] for leaf in derived for row in kept]
            return [item.numpy() for item in given] + [np.float32(0)]

        types = [leaf.dtype for leaf in (*values, *derived) for _ in range(count)] + [tf.float32]
        with tf.control_dependencies(_touch(found.handles)):
            results = graph.collective(run, tensors, types)
        for result, leaf in zip(results, (leaf for leaf in (*values, *derived) for _ in range(count)), strict=False):
            result.set_shape(leaf.shape)
        ran = results[-1].op
        with tf.control_dependencies([ran]):
            _touch(found.handles)
        by_leaf = {
            id(leaf): results[place * count : (place + 1) * count] for place, leaf in enumerate((*values, *derived))
        }

        def gradient(place: int) -> StepOutput:
            variable = found.variables[place]
            with tf.control_dependencies([ran]):
                total = tf.identity(found.parts.gradient_sum(variable).read_value())

            def each() -> list[Any]:
                wanted["keep"] = True
                with tf.control_dependencies([ran]):
                    parts = tf.numpy_function(
                        lambda: [row[place].numpy() for row in left["kept"]], [], [variable.dtype] * count
                    )
                for part in parts:
                    part.set_shape(variable.shape)
                return list(parts)

            return StepOutput(each, count, Total(total, count, lambda: means.add(place)))

        def output(number: int) -> Any:
            leaf = found.leaves[number]
            if leaf.kind == "static":
                return leaf.value
            return gradient(leaf.number) if leaf.kind == "gradient" else StepOutput(by_leaf[id(leaf)], count)

        return tf.nest.map_structure(output, found.structure)


def _touch(handles: Sequence[Any]) -> list[Any]:
    """Operations that TensorFlow takes for uses of variables.

    The step's own uses are hidden in it. One such operation before it and one after it order what the graph does with
    the variables: assignments that stand after the step, a decay of weights for one, do not overtake it.
    """
    return [tf.raw_ops.VarIsInitializedOp(resource=handle).op for handle in handles]


def _identity(item: Any) -> Any:
    """A value that is part of a trace's key; of an object, which one it is."""
    return item if isinstance(item, str | int | float | bool | _Tensor | None) else f"object {id(item)}"


def _slots(structure: Any) -> list[_Tensor]:
    """The slots of a call, in the order of its tensors."""
    found = [item for item in tf.nest.flatten(structure) if isinstance(item, _Tensor)]
    return sorted(found, key=lambda slot: slot.number)


def _spec(tensor: Any, axis: int | None, count: int) -> Any:
    """The tensor's type and its shape for one micro-batch."""
    shape = list(tensor.shape)
    if axis is not None and shape[axis] is not None:
        if shape[axis] % count:
            raise StepError(
                f"A batch of {shape[axis]} cannot be split into {count} micro-batches. Use batch(..., "
                "drop_remainder=True) with a multiple of it, or name arguments without a batch axis in "
                "smp.step(non_split_inputs=[...])."
            )
        shape[axis] //= count
    return tf.TensorSpec(shape, tf.as_dtype(tensor.dtype))


def _microbatches(tensors: Sequence[Any], axes: Sequence[int | None], count: int) -> list[list[Any]]:
    rows: list[list[Any]] = [[] for _ in range(count)]
    for tensor, axis in zip(tensors, axes, strict=True):
        if axis is None:
            pieces: Any = [tensor] * count
        elif isinstance(tensor, np.ndarray):
            pieces = np.split(tensor, count, axis)
        else:
            pieces = tf.split(tensor, count, axis)
        for row, piece in zip(rows, pieces, strict=True):
            row.append(piece)
    return rows

"""A model's parts: its stages for each way of calling it, and which variables are this rank's.

The model is traced when a step function calls it first, and parted then. Another way of calling it (other arguments, no
training) is traced anew, and keeps every layer in its partition.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clary_parallel.analyse import UntraceableError, measure_operations, pins_of, trace_model, with_seconds
from clary_parallel.analyse.keras_model import TracedModel
from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel.calls import Call, Called, order_of_inputs, rest_of
from clary_parallel.modelparallel.job import Job
from clary_parallel.modelparallel.stage_network import StageNetwork
from clary_parallel.modelparallel.tensorflow_calls import as_layers
from clary_parallel.partitioning import Plan, describe_plan, make_plan
from clary_parallel.pipelining import held
from clary_parallel.pipelining.gathering import Gathering
from clary_parallel.pipelining.layout import StageLayout, lay_out
from clary_parallel.pipelining.planning import plan_for_all

_numbers = itertools.count()
_plans = itertools.count()
"""How many models of this process were planned."""


@dataclass(frozen=True)
class Way:
    """One way of calling the model, in stages.

    Args:
        traced: The model's graph.
        layouts: Its stages, with the losses that layers add left out: a step function adds what it wants.
        order: For each of the traced model's inputs the number of the call's tensor.
    """

    traced: TracedModel
    layouts: tuple[StageLayout, ...]
    order: tuple[int, ...]

    def with_losses(self) -> Way:
        """The same, with one more output: what layers of all stages add as losses, which each stage adds up further."""
        total = keras.KerasTensor((), "float32", name="losses")

        def carrying(layout: StageLayout) -> StageLayout:
            before = (total,) if layout.number else ()
            return replace(
                layout,
                takes=layout.takes + before,
                gives=(*layout.gives, total),
                uses=layout.uses + before,
                makes=(*layout.makes, total),
                network=layout.network.with_losses(len(layout.uses) if before else None),
            )

        return replace(self, layouts=tuple(carrying(layout) for layout in self.layouts))


class Parts:
    """The parts of one model on this rank.

    Args:
        model: The user's model, with `call`; or a functional or Sequential model inside it.
        job: The job's ranks and parameters.
        ready: Called once, when the model is parted.
    """

    def __init__(self, model: Any, job: Job, ready: Callable[[], None]) -> None:
        self.model, self.job, self._ready = model, job, ready
        self.number = next(_numbers)
        self.plan: Plan | None = None
        self._stage_of_weight: dict[int, int] = {}
        self._stages: list[tuple[Any, int]] = []
        self._sums: dict[int, Any] = {}
        self._ways: dict[Any, Way] = {}
        self._shape: list[Any] = []
        self._dropped: set[int] = set()

    @property
    def parted(self) -> bool:
        """Whether the model was parted yet."""
        return self.plan is not None

    def way(self, call: Call) -> Way:
        """The stages for a way of calling the model; traced at the first such call."""
        if call.key not in self._ways:
            first = not self.parted
            self._ways[call.key] = self._trace(call)
            if first:
                self._ready()
        return self._ways[call.key]

    def first_way(self) -> Way:
        """The way that parted the model."""
        return next(iter(self._ways.values()))

    def variables(self, rank: int | None = None) -> list[Any]:
        """The variables of a rank's part (by default this rank's), in the order of its layers."""
        mine = self.job.model.rank if rank is None else rank
        return [variable for variable, stage in self._stages if stage == mine]

    def all_variables(self) -> list[tuple[Any, int]]:
        """Every variable of the model with the rank that holds it."""
        return list(self._stages)

    def owner(self, variable: Any) -> int | None:
        """The rank of this replica that holds a variable; None if no stage uses it."""
        return self._stage_of_weight.get(id(variable))

    def gradient_sum(self, variable: Any) -> Any:
        """The TensorFlow variable in which a variable's gradients add up over the micro-batches of a step."""
        if id(variable) not in self._sums:
            with tf.init_scope():
                self._sums[id(variable)] = tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)
        return self._sums[id(variable)]

    def dropped(self, handle: Any) -> bool:
        """Whether a handle that somebody keeps is of a value that this rank let go of."""
        return id(handle) in self._dropped

    def gathering(self) -> Gathering:
        """All variables of the model, which ranks hold between them."""
        return Gathering([variable for variable, _ in self._stages], self._stage_of_weight, self.job.model)

    def everything(self) -> list[Any]:
        """All variables of the user's model, layer after layer, whether a stage uses them or not."""
        user = self.model.user if isinstance(self.model, _Subclassed) else self.model
        return keras.Model.variables.fget(user)

    def _trace(self, call: Call) -> Way:
        traced, order = self._described(call)
        self._refuse_weights_outside_layers()
        plan = self._plan(traced, call.microbatch or 1)
        layouts: list[StageLayout] = []
        for layout in lay_out(traced, plan.stage_of, self.job.parameters.partitions):
            for variable in layout.network.variables:
                if self._stage_of_weight.setdefault(id(variable), layout.number) == layout.number and not any(
                    variable is known for known, _ in self._stages
                ):
                    self._stages.append((variable, layout.number))
            layouts.append(replace(layout, network=StageNetwork(layout.network, call.training)))
        self._hold_own()
        return Way(traced, tuple(layouts), order)

    def _described(self, call: Call) -> tuple[TracedModel, tuple[int, ...]]:
        """Trace the model; layers that are built meanwhile make no values yet."""
        try:
            with held.described():
                return self._symbolic(call)
        except UntraceableError as error:
            if "stateless scope" not in str(error):
                raise
        # A layer needs values while it is built: then all layers are built whole, and values are dropped afterwards.
        for variable in self.everything():
            if held.has_no_value(variable) and not held.is_absent(variable):
                held.make_value(variable)
        return self._symbolic(call)

    def _hold_own(self) -> None:
        """Keep, or make, the values of this rank's variables and of those that no stage uses; drop all others."""
        mine = self.job.model.rank
        for variable in self.everything():
            if self._stage_of_weight.get(id(variable), mine) != mine:
                if not held.has_no_value(variable):
                    self._dropped.add(id(variable.value.handle))
                held.release(variable)
            elif held.has_no_value(variable):
                held.make_value(variable)
        if self.job.parameters.partitions > 1:
            held.give_back()

    def _partition_file(self) -> str | None:
        """The job's file for its first model; a further model's has a number before its suffix."""
        named = self.job.parameters.partition_file
        number = next(_plans)
        if named is None or number == 0:
            return named
        file = Path(named)
        return str(file.with_name(f"{file.stem}.{number}{file.suffix}"))

    def _symbolic(self, call: Call) -> tuple[TracedModel, tuple[int, ...]]:
        microbatch = call.microbatch or 1
        if not isinstance(self.model, _Subclassed):
            return trace_model(self.model, microbatch), order_of_inputs(self.model, call.structure)
        inputs = [
            keras.Input(batch_shape=rest_of(shape, call.microbatch), dtype=dtype, name=f"input_{number}")
            for number, (shape, dtype) in enumerate(call.specs)
        ]
        with as_layers():
            traced = trace_model(Called(self.model.user, call), microbatch, inputs)
        return traced, tuple(range(len(inputs)))

    def _refuse_weights_outside_layers(self) -> None:
        if not isinstance(self.model, _Subclassed):
            return
        loose = [*self.model.user._trainable_variables]
        if loose:
            raise UntraceableError(
                f"Model {self.model.user.name!r} has weights of its own ({', '.join(item.name for item in loose[:3])}) "
                "that belong to no layer, so they can be put into no partition. Move them into a keras.layers.Layer."
            )

    def _plan(self, traced: TracedModel, microbatch: int) -> Plan:
        parameters = self.job.parameters
        shape = [
            (type(call.operation).__name__, tuple(id(weight) for weight in getattr(call.operation, "weights", ())))
            for call in traced.calls
        ]
        if self.plan is not None:
            if shape == self._shape:
                return self.plan
            pins = {
                operation.name: self._stage_of_weight[id(weight)]
                for operation, call in zip(traced.graph.operations, traced.calls, strict=True)
                for weight in getattr(call.operation, "weights", ())
                if id(weight) in self._stage_of_weight
            }
            return make_plan(
                traced.graph,
                parameters.partitions,
                optimize=parameters.optimize,
                pins=pins,
                contiguous=parameters.contiguous and not parameters.load_partition,
            )
        self._shape = shape
        if parameters.optimize == "speed":
            # All ranks must cut alike, so one of them measures.
            everyone = self.job.world
            seconds = measure_operations(traced, microbatch) if everyone.rank == 0 else None
            traced = with_seconds(traced, everyone.broadcast_object(seconds))
        self.plan = plan_for_all(
            traced.graph,
            parameters.partitions,
            self.job.world,
            self._partition_file(),
            parameters.load_partition,
            optimize=parameters.optimize,
            memory_weight=parameters.memory_weight,
            pins={} if parameters.auto_partition else pins_of(traced),
            auto_partition=parameters.auto_partition,
            default_partition=parameters.default_partition,
            contiguous=parameters.contiguous,
        )
        if self.job.world.rank == 0 and parameters.partitions > 1:
            print(f"clary_parallel: the model's partitions\n{describe_plan(self.plan)}", flush=True)
        return self.plan


class _Subclassed:
    """Marks a user's model whose graph its `call` draws."""

    def __init__(self, user: Any) -> None:
        self.user = user


def parts_of(user: Any, inner: Any, job: Job, ready: Callable[[], None]) -> Parts:
    """The parts of a user's model, or of the functional or Sequential model that it was made from."""
    return Parts(_Subclassed(user) if inner is None else inner, job, ready)

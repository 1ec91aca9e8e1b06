"""One step of a cut step function on this rank: its stages over the micro-batches, then what comes after them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from clary_parallel.errors import Disagreement
from clary_parallel.frameworks import tf
from clary_parallel.modelparallel.cutting import Cut
from clary_parallel.modelparallel.exchange import share_copies, share_tensors
from clary_parallel.modelparallel.tracing import StepError
from clary_parallel.pipelining.stage import Compiled, Crossing, Feed, LossFunction, Stage, StageCode
from clary_parallel.schedule import Schedule, make_schedule
from clary_parallel.schedule.execute import Arrays, Spec, execute

Microbatch = Sequence[Any]
"""The step function's tensors for one micro-batch."""


class Program:
    """A cut step function with this rank's stages, for micro-batches of one shape.

    Args:
        cut: The step function.
    """

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.job = cut.parts.job
        self.trains = cut.seeds is not None
        if self.trains and self.job.parameters.pipeline == "_only_forward":
            raise StepError('"pipeline": "_only_forward" has no backward. Use "interleaved" or "simple" for training.')
        self._totals: list[Any] = []
        self._stages = self._make_stages()
        self._compiled: dict[int, Compiled] | None = None
        self._everywhere = True
        self._shared: list[tuple[Any, int]] = []

    def run(
        self, microbatches: Sequence[Microbatch], keep: bool, means: Collection[int] = ()
    ) -> tuple[list[list[Any]], list[list[Any]]]:
        """Run a step. Collective over the ranks that hold the model.

        Args:
            microbatches: Tensors or arrays of each micro-batch.
            keep: Whether to keep gradients of each micro-batch.
            means: Numbers of the variables whose gradients are wanted as means over micro-batches, in place of sums.

        Returns:
            For each micro-batch the tensors that the function returns, and, if kept, those that derive from gradients
            after the gradients themselves.
        """
        if self._compiled is None:
            self._compare(microbatches)
        share_copies(self._shared, self.job.model)
        saved: list[dict[str, Any]] = [{} for _ in microbatches]
        given = [[tf.convert_to_tensor(item) for item in microbatch] for microbatch in microbatches]
        inputs = [self.cut.phases.call(0, items, kept) for items, kept in zip(given, saved, strict=True)]
        feeds = {number: self._feeds(number, given, inputs) for number in self._stages}
        if self._compiled is None:
            self._compiled = self._compile(feeds)
        self._clear()
        programs: dict[int, Stage | _Keeping] = {}
        for number, stage in self._stages.items():
            stage.begin(feeds[number], [self._compiled[number]] * len(given))
            programs[number] = _Keeping(stage, self._take_gradients) if keep and self.trains else stage
        execute(self._schedule(len(given)), programs, self.job.model)
        tensors = self._after(saved, len(given))
        kept: list[list[Any]] = []
        if keep and self.trains:
            taken = next((item.taken for item in programs.values() if isinstance(item, _Keeping)), {})
            kept = self._kept(taken, tensors, saved)
        else:
            self._add_direct(tensors)
        for place in means:
            total = self.cut.parts.gradient_sum(self.cut.variables[place])
            total.assign(total / tf.cast(len(given), total.dtype))
        returned = sum(leaf.kind == "tensor" for leaf in self.cut.leaves)
        return [row[:returned] for row in tensors], kept

    def _make_stages(self) -> dict[int, Stage]:
        stages: dict[int, Stage] = {}
        rank, last = self.job.model.rank, len(self.cut.way.layouts) - 1
        for layout in self.cut.way.layouts:
            if layout.number == rank:
                trainable = layout.network.trainable_variables if self.trains else []
                self._totals = [self.cut.parts.gradient_sum(variable) for variable in trainable]
                loss = self._loss() if layout.number == last else None
                xla = self.job.parameters.xla
                stages[layout.number] = Stage(StageCode(layout, loss, self.trains, self._totals, xla=xla))
        return stages

    def _loss(self) -> LossFunction:
        """A number whose gradients by the model's outputs are those of the user's loss."""
        cut = self.cut

        def loss(given: Any, outputs: Any, weights: Any, share: Any) -> Any:
            if cut.seeds is None:
                return tf.zeros(())
            seeds = cut.seeds.call(0, [*given[1:], *outputs], {})
            products = [
                tf.reduce_sum(tf.cast(outputs[number], tf.float32) * tf.cast(tf.stop_gradient(seed), tf.float32))
                for number, seed in zip(cut.seeded, seeds, strict=True)
            ]
            return tf.add_n(products)

        return loss

    def _feeds(self, number: int, given: Sequence[Sequence[Any]], inputs: Sequence[Sequence[Any]]) -> list[Feed]:
        layout, last = self.cut.way.layouts[number], number == len(self.cut.way.layouts) - 1
        return [
            # The loss takes the function's own tensors, and one that is always there: a stage without targets has none.
            Feed([own[index] for index in layout.model_inputs], [tf.zeros(()), *items] if last else [], [], 1.0)
            for items, own in zip(given, inputs, strict=True)
        ]

    def _compile(self, feeds: dict[int, list[Feed]]) -> dict[int, Compiled]:
        """Stage after stage: each learns from the one before what crosses their boundary."""
        compiled: dict[int, Compiled] = {}
        takes: tuple[Crossing, ...] = ()
        for layout in self.cut.way.layouts:
            told: Any = None
            if layout.number in self._stages:
                compiled[layout.number] = self._stages[layout.number].compile(takes, feeds[layout.number][0])
                told = compiled[layout.number].gives
            takes = self.job.model.broadcast_object(told, layout.number)
        return compiled

    def _clear(self) -> None:
        """Make zeros of the sums that no backward of the step begins anew."""
        stages = (self._compiled or {}).values()
        begun = {id(self._totals[index]) for compiled in stages for index in compiled.with_gradient}
        for variable in self.cut.variables:
            total = self.cut.parts.gradient_sum(variable)
            if id(total) not in begun:
                total.assign(tf.zeros_like(total))

    def _schedule(self, count: int) -> Schedule:
        name = self.job.parameters.pipeline if self.trains else "forward_only"
        return make_schedule(name, self.job.parameters.partitions, count)

    def _after(self, saved: list[dict[str, Any]], count: int) -> list[list[Any]]:
        """What comes after the model: on every rank, or, where it changes nothing there, on the last one."""
        ranks, last = self.job.model, len(self.cut.way.layouts) - 1
        results = self._stages[last].results.outputs if last in self._stages else {}
        rows: list[list[Any]] = []
        for number in range(count):
            if self._everywhere:
                outputs = share_tensors(results.get(number), last, ranks)
                rows.append(self.cut.phases.call(1, outputs, saved[number]))
            else:
                own = self.cut.phases.call(1, results[number], saved[number]) if number in results else None
                rows.append(share_tensors(own, last, ranks))
        return rows

    def _add_direct(self, tensors: list[list[Any]]) -> None:
        """Add the gradients that do not go through the model's outputs."""
        for number, place in self.cut.direct:
            total = self.cut.parts.gradient_sum(self.cut.variables[number])
            total.assign_add(tf.add_n([row[place] for row in tensors]))

    def _take_gradients(self) -> list[Any]:
        """The gradients of one micro-batch, which has just added them up; the sums begin anew."""
        taken: list[Any] = []
        for variable in self.cut.variables:
            total = self.cut.parts.gradient_sum(variable)
            taken.append(tf.identity(total))
            total.assign(tf.zeros_like(total))
        return taken

    def _kept(
        self, taken: dict[int, list[Any]], tensors: list[list[Any]], saved: list[dict[str, Any]]
    ) -> list[list[Any]]:
        """Gradients of each micro-batch, then what derives from them; the sums are put in order."""
        rows: list[list[Any]] = []
        for number, row in enumerate(tensors):
            gradients = list(taken.get(number, ()))
            for variable, place in self.cut.direct:
                gradients[variable] = gradients[variable] + row[place]
            rows.append([*gradients, *self.cut.phases.call(2, gradients, saved[number])])
        for place, variable in enumerate(self.cut.variables):
            self.cut.parts.gradient_sum(variable).assign(tf.add_n([row[place] for row in rows]))
        return rows

    def _compare(self, microbatches: Sequence[Microbatch]) -> None:
        """At the first run: see that the ranks of this model have the same data, and learn what they read.

        Raises:
            Disagreement: Their data differ.
        """
        ranks, known = self.job.model, [variable for variable, _ in self.cut.parts.all_variables()]
        digest = hashlib.blake2b(digest_size=16)
        shapes: list[Any] = []
        for item in microbatches[0]:
            array = np.ascontiguousarray(np.asarray(item))
            shapes.append((array.shape, str(array.dtype)))
            digest.update(array.tobytes())
        outside = {place for place, variable in enumerate(known) if any(variable is item for item in self.cut.outside)}
        told = ranks.allgather_object(
            (shapes, digest.hexdigest(), bool(self.cut.changes_state or self.cut.direct), outside)
        )
        self._everywhere = any(changes for _, _, changes, _ in told)
        if any(one[:2] != told[0][:2] for one in told):
            listed = "; ".join(f"mp_rank {rank}: {one[0]}, {one[1][:8]}" for rank, one in enumerate(told))
            raise Disagreement(
                "The ranks that hold one model were given different batches (shapes, and a digest of the first "
                f"micro-batch): {listed}. All ranks with one smp.dp_rank() must read the same data in the same order: "
                "seed shuffles with smp.dp_rank(), and shard by smp.dp_rank() and smp.dp_size()."
            )
        # A variable that only its owner reads is up to date there.
        owners = self.cut.parts.all_variables()
        self._shared = [
            pair
            for place, pair in enumerate(owners)
            if any(place in reads and rank != pair[1] for rank, (_, _, _, reads) in enumerate(told))
        ]


class _Keeping:
    """A stage whose gradients are taken after each micro-batch's backward."""

    def __init__(self, stage: Stage, take: Callable[[], list[Any]]) -> None:
        self._stage, self._take = stage, take
        self.taken: dict[int, list[Any]] = {}

    def forward_specs(self, microbatch: int) -> Sequence[Spec]:
        """See `StageProgram`."""
        return self._stage.forward_specs(microbatch)

    def backward_specs(self, microbatch: int) -> Sequence[Spec]:
        """See `StageProgram`."""
        return self._stage.backward_specs(microbatch)

    def forward(self, microbatch: int, inputs: Arrays) -> Arrays:
        """See `StageProgram`."""
        return self._stage.forward(microbatch, inputs)

    def backward(self, microbatch: int, gradients: Arrays, weights: bool) -> Arrays:
        """See `StageProgram`."""
        sent = self._stage.backward(microbatch, gradients, weights)
        if weights:
            self.taken[microbatch] = self._take()
        return sent

    def weight(self, microbatch: int) -> None:
        """See `StageProgram`."""
        self._stage.weight(microbatch)
        self.taken[microbatch] = self._take()

    def forward_and_backward(self, microbatch: int, inputs: Arrays, weights: bool) -> Arrays:
        """See `StageProgram`."""
        sent = self._stage.forward_and_backward(microbatch, inputs, weights)
        if weights:
            self.taken[microbatch] = self._take()
        return sent

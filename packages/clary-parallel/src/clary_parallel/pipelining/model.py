"""The Keras surface: a model whose `fit`, `evaluate` and `predict` run over a pipeline of ranks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import tensorflow as tf

from clary_parallel.analyse import TracedModel
from clary_parallel.partitioning import Plan, describe_plan
from clary_parallel.pipelining.batches import Given, flat_batch, joined, sums_losses
from clary_parallel.pipelining.engine import Engine, Outcome, Settings
from clary_parallel.pipelining.gathering import written_to_disk
from clary_parallel.pipelining.holding import Hold, Holding
from clary_parallel.pipelining.layout import StageLayout
from clary_parallel.pipelining.update import Update, loss_scale, scales_losses
from clary_parallel.schedule.execute import Observer
from clary_parallel.transport import Transport

_Model: Any = keras.Model


class PipelineModel(_Model):
    """A Keras model that trains over a pipeline. Made by `clary_parallel.pipeline`; every rank runs the same program.

    Each rank computes its own stages; the data of the first rank counts. `save` writes the ordinary, whole model with
    its optimizer's state, on the first rank. Where the pipeline was given a model, every rank has all trained weights
    after `fit`; where it was given a function, or hold="own", each rank holds its own stages' weights only.

    Args:
        whole: The user's model.
        traced: Its graph.
        plan: Its partition.
        layouts: Its stages.
        settings: How it runs.
        transport: The ranks of this pipeline.
        replicas: This rank and its likes in other replicas of the pipeline; None if there is one pipeline.
        hold: What a rank holds of a model that has weights.
    """

    def __init__(
        self,
        whole: Any,
        traced: TracedModel,
        plan: Plan,
        layouts: Sequence[StageLayout],
        settings: Settings,
        transport: Transport,
        replicas: Transport | None,
        hold: Hold = "all",
    ) -> None:
        # Keras scales the loss by itself where the model's own policy needs it.
        super().__init__(name=f"{whole.name}_pipeline", dtype=whole.dtype_policy)
        self.whole = whole
        self.plan = plan
        self.settings = settings
        self.transport = transport
        self.holding = Holding(whole, hold, layouts, settings.partitions, transport, replicas)
        self._traced, self._layouts, self._replicas = traced, layouts, replicas
        self._engine: Engine | None = None
        self._update: Update | None = None
        self._last_logs: dict[str, Any] = {}
        self.last_update_seconds = 0.0
        self._given = Given()
        self._clip_all: float | None = None
        self._sums = False
        self.built = True

    # --- what Keras asks of a model ---

    @property
    def output_names(self) -> Any:
        """The whole model's, so that losses and metrics can be given by name."""
        return getattr(self.whole, "output_names", None)

    @property
    def losses(self) -> list[Any]:
        """None of its own: each stage adds the losses of its layers."""
        return []

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The whole model on this rank alone."""
        return self.whole(inputs, training=training)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """As `keras.Model.compile`. `global_clipnorm` of the optimizer counts over all stages.

        With jit_compile=True XLA compiles the stages' functions; otherwise ("auto" too) TensorFlow runs them.
        """
        super().compile(optimizer=optimizer, loss=loss, **options)
        self.settings = replace(self.settings, xla=options.get("jit_compile") is True)
        self._given.compiled_with = {"loss": loss, **options}
        if self.optimizer is not None:
            inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            self._clip_all, inner.global_clipnorm = inner.global_clipnorm, None
        self._sums = sums_losses(loss)
        self._engine, self._update = None, None

    def summary(self, *arguments: Any, **options: Any) -> None:
        """The whole model's summary and the table of its stages."""
        self.whole.summary(*arguments, **options)
        options.get("print_fn", print)(describe_plan(self.plan))

    def make_train_function(self, force: bool = False) -> Any:
        """Steps of `fit`."""
        self.train_function = partial(self._each, step=self._train_step)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Steps of `evaluate`."""
        self.test_function = partial(self._each, step=self._test_step)
        return self.test_function

    def make_predict_function(self, force: bool = False) -> Any:
        """Steps of `predict`; every rank gets the outputs."""
        self.predict_function = partial(self._each, step=self._predict_step)
        return self.predict_function

    def get_metrics_result(self) -> dict[str, Any]:
        """The last rank's metrics, which every rank was told."""
        return dict(self._last_logs)

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Nothing: Keras would run the whole model here, and make state for all of its weights."""

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.fit`; afterwards every rank has all weights, unless each holds its own stages' only."""
        self._quiet(options)
        history = super().fit(*arguments, **options)
        self.synchronise()
        return history

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.evaluate`."""
        self._quiet(options)
        return super().evaluate(*arguments, **options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.predict`, with the outputs on every rank."""
        self._quiet(options)
        return super().predict(*arguments, **options)

    def get_weights(self) -> list[Any]:
        """The whole model's weights. Collective."""
        self._running()
        return self.holding.all_weights()

    def set_weights(self, weights: list[Any]) -> None:
        """Set the whole model's weights, on every rank; each takes what it holds."""
        self.whole.set_weights(weights)

    def save(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Save the whole, ordinary model with its optimizer's state. Collective; the first rank writes."""
        self._write(lambda: self.whole.save(filepath, *arguments, **options))

    def save_weights(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Save a checkpoint: the whole model's weights and the optimizer's state. Collective; the first rank writes."""
        self._write(lambda: self.whole.save_weights(filepath, *arguments, **options))

    def load_weights(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Load a checkpoint that any number of partitions saved, or one process; each rank takes what it holds."""
        self._running()
        with self._as_one_model():
            self.whole.load_weights(filepath, *arguments, **options)

    def export(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Write the whole model as a SavedModel. Collective; the first rank writes.

        Raises:
            ValueError: No rank holds the whole model.
        """
        if self.holding.is_divided:
            raise ValueError(
                "No rank holds the whole model, which a SavedModel is made from. Save it as .keras, load that with "
                "keras.saving.load_model where it fits, and export it there."
            )
        self._write(lambda: self.whole.export(filepath, *arguments, **options))

    # --- steps ---

    def synchronise(self) -> None:
        """Give every rank the current weights of all stages, where ranks hold them all. Collective."""
        engine = self._running()
        if not self.holding.is_divided:
            engine.synchronise()

    def train_on(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, Any]:
        """One training step on a batch, for loops of one's own. Returns the logs, on every rank."""
        return self._train_step((x, y, sample_weight))

    def observe(self, observer: Observer | None) -> None:
        """Be told when each action of later steps ran on this rank; None ends it. For measurements."""
        self._running().observer = observer

    def _running(self) -> Engine:
        if self._engine is None:
            engine = self._engine = Engine(self._layouts, self.settings, self.transport, self._flat_loss)
            self.holding.agree()
            if self.compiled and self.optimizer is not None:
                self.holding.build_optimizer(self.optimizer)
            if not self.holding.is_divided:
                engine.synchronise()
        return self._engine

    def _write(self, write: Callable[[], Any]) -> None:
        """Let the first rank write the whole model."""
        self.synchronise()
        if self._replicas is None or self._replicas.rank == 0:
            with self.holding.gathering().on_first_rank() as is_first:
                if is_first:
                    with self._as_one_model(), written_to_disk():
                        write()
        self.transport.barrier()

    @contextlib.contextmanager
    def _as_one_model(self) -> Generator[None]:
        """Inside, the whole model is compiled as this one, so that the optimizer's state is part of it."""
        if not self.compiled or self.optimizer is None:
            yield
            return
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        inner.global_clipnorm = self._clip_all
        self.whole.compile(optimizer=self.optimizer, **self._given.compiled_with)
        try:
            yield
        finally:
            inner.global_clipnorm = None

    def _each(self, iterator: Any, step: Any) -> Any:
        results = [step(data) for data in iterator] if isinstance(iterator, list) else [step(next(iterator))]
        if not results:
            raise StopIteration
        if step == self._predict_step and len(results) > 1:
            return keras.tree.map_structure(joined, *results)
        return results[-1]

    def _train_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = self._unpacked(data)
        engine = self._running()
        # Half precision overflows now and then; below a scale of 1 no smaller one will mend it.
        may_overflow = scales_losses(self.optimizer) and loss_scale(self.optimizer) >= 1.0
        batch = flat_batch(x, y, weights, self._traced.inputs)
        outcome = engine.step(batch, True, loss_scale(self.optimizer), may_overflow)
        if self._update is None:
            variables = [engine.variables[index] for index in engine.with_gradient]
            gradients = [engine.gradients[index] for index in engine.with_gradient]
            self._update = Update(self.optimizer, variables, gradients, self.transport, self._replicas, self._clip_all)
        began = time.perf_counter()
        self._update()
        self.last_update_seconds = time.perf_counter() - began
        return self._log(engine, outcome, x, y, weights)

    def _test_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = self._unpacked(data)
        engine = self._running()
        outcome = engine.step(flat_batch(x, y, weights, self._traced.inputs), training=False)
        return self._log(engine, outcome, x, y, weights)

    def _predict_step(self, data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        engine = self._running()
        outcome = engine.step(flat_batch(x, None, None, self._traced.inputs), training=False)
        outputs = self.transport.broadcast_object(outcome.outputs if engine.is_last else None, engine.owner[-1])
        tensors = [tf.convert_to_tensor(item) for item in outputs]
        return keras.tree.pack_sequence_as(self._traced.structure, tensors)

    def _log(self, engine: Engine, outcome: Outcome, x: Any, y: Any, weights: Any) -> dict[str, Any]:
        """Metrics of the batch, computed where the outputs are and told to every rank."""
        logs: dict[str, Any] | None = None
        if engine.is_last:
            size = keras.tree.flatten(x)[0].shape[0]
            self._loss_tracker.update_state(outcome.loss, sample_weight=size)
            if self._given.compiled_with.get("metrics") or self._given.compiled_with.get("weighted_metrics"):
                predictions = keras.tree.pack_sequence_as(self._traced.structure, outcome.outputs)
                self.compute_metrics(x, y, predictions, weights)
                logs = {name: float(value) for name, value in super().get_metrics_result().items()}
            else:
                logs = {"loss": float(self._loss_tracker.result())}
        self._last_logs = self.transport.broadcast_object(logs, engine.owner[-1])
        return dict(self._last_logs)

    def _unpacked(self, data: Any) -> tuple[Any, Any, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        self._given.targets, self._given.sample_weights = y, weights
        return x, y, weights

    def _flat_loss(self, targets: list[Any], outputs: list[Any], weights: list[Any], share: Any) -> Any:
        """The compiled loss of a micro-batch."""
        structure = self._traced.structure
        loss = self.compute_loss(
            y=keras.tree.pack_sequence_as(self._given.targets, targets),
            y_pred=keras.tree.pack_sequence_as(structure, outputs),
            sample_weight=keras.tree.pack_sequence_as(self._given.sample_weights, weights) if weights else None,
        )
        # Micro-batches count by their share of the batch; a sum counts each example once.
        return loss / share if self._sums else loss

    def _quiet(self, options: dict[str, Any]) -> None:
        """One progress bar, the first rank's."""
        if self.transport.rank or (self._replicas is not None and self._replicas.rank):
            options["verbose"] = 0

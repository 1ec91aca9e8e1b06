"""The Keras surface: a model whose `fit`, `evaluate` and `predict` run over a pipeline of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras  # pyright: ignore[reportMissingImports]
import numpy as np
import tensorflow as tf

from clary_parallel.analyse import TracedModel
from clary_parallel.partitioning import Plan, describe_plan
from clary_parallel.pipelining.engine import Batch, Engine, Settings
from clary_parallel.pipelining.layout import StageLayout
from clary_parallel.schedule.execute import Observer
from clary_parallel.transport import Transport

_Model: Any = keras.Model


class _Structures:
    """In which structures targets and sample weights were given. Not attributes of the model: Keras wraps those."""

    targets: Any = None
    sample_weights: Any = None


class PipelineModel(_Model):
    """A Keras model that trains over a pipeline. Made by `clary_parallel.pipeline`; every rank runs the same program.

    Each rank computes its own stages; the data of the first rank counts. After `fit` every rank has all trained
    weights. `save` writes the ordinary, whole model, on the first rank.

    Args:
        whole: The user's model.
        traced: Its graph.
        plan: Its partition.
        layouts: Its stages.
        settings: How it runs.
        transport: The ranks of this pipeline.
        replicas: This rank and its likes in other replicas of the pipeline; None if there is one pipeline.
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
    ) -> None:
        super().__init__(name=f"{whole.name}_pipeline")
        self.whole = whole
        self.plan = plan
        self.settings = settings
        self.transport = transport
        self._traced, self._layouts, self._replicas = traced, layouts, replicas
        self._engine: Engine | None = None
        self._apply: Any = None
        self._last_logs: dict[str, Any] = {}
        self._given = _Structures()
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
        """As `keras.Model.compile`. `global_clipnorm` of the optimizer counts over all stages."""
        super().compile(optimizer=optimizer, loss=loss, **options)
        if self.optimizer is not None:
            if type(self.optimizer).__name__ == "LossScaleOptimizer":
                raise ValueError(
                    "A pipeline does not scale losses. Use a mixed_bfloat16 policy instead of mixed_float16, or "
                    "auto_scale_loss=False."
                )
            self._clip_all = self.optimizer.global_clipnorm
            self.optimizer.global_clipnorm = None
        self._sums = _sums_losses(loss)
        self._engine, self._apply = None, None

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

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.fit`; afterwards every rank has all weights."""
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
        """The whole model's weights."""
        self.synchronise()
        return self.whole.get_weights()

    def set_weights(self, weights: list[Any]) -> None:
        """Set the whole model's weights, on every rank."""
        self.whole.set_weights(weights)

    def save(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Save the whole, ordinary model. Collective; the first rank writes."""
        self.synchronise()
        if self.transport.rank == 0 and (self._replicas is None or self._replicas.rank == 0):
            self.whole.save(filepath, *arguments, **options)
        self.transport.barrier()

    def save_weights(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Save the whole model's weights, for any number of partitions. Collective; the first rank writes."""
        self.synchronise()
        if self.transport.rank == 0 and (self._replicas is None or self._replicas.rank == 0):
            self.whole.save_weights(filepath, *arguments, **options)
        self.transport.barrier()

    def load_weights(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Load the whole model's weights, on every rank."""
        self.whole.load_weights(filepath, *arguments, **options)

    # --- steps ---

    def synchronise(self) -> None:
        """Give every rank the current weights of all stages. Collective."""
        self._running().synchronise()

    def train_on(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, Any]:
        """One training step on a batch, for loops of one's own. Returns the logs, on every rank."""
        return self._train_step((x, y, sample_weight))

    def observe(self, observer: Observer | None) -> None:
        """Be told when each action of later steps ran on this rank; None ends it. For measurements."""
        self._running().observer = observer

    def _running(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(self._layouts, self.settings, self.transport, self._flat_loss)
            if self._replicas is not None:
                for variable in self.whole.variables:
                    value = np.ascontiguousarray(np.asarray(variable.value))
                    self._replicas.broadcast(value)
                    variable.assign(value)
            self._engine.synchronise()
        return self._engine

    def _each(self, iterator: Any, step: Any) -> Any:
        results = [step(data) for data in iterator] if isinstance(iterator, list) else [step(next(iterator))]
        if not results:
            raise StopIteration
        if step == self._predict_step and len(results) > 1:
            return keras.tree.map_structure(_joined, *results)
        return results[-1]

    def _train_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        engine = self._running()
        outcome = engine.step(self._batch(x, y, weights), training=True)
        self._update(engine)
        return self._log(engine, outcome, x, y, weights)

    def _test_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        engine = self._running()
        outcome = engine.step(self._batch(x, y, weights), training=False)
        return self._log(engine, outcome, x, y, weights)

    def _predict_step(self, data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        engine = self._running()
        outcome = engine.step(self._batch(x, None, None), training=False)
        outputs = self.transport.broadcast_object(outcome.outputs, engine.owner[-1])
        tensors = [tf.convert_to_tensor(item) for item in outputs]
        return keras.tree.pack_sequence_as(self._traced.structure, tensors)

    def _log(self, engine: Engine, outcome: Any, x: Any, y: Any, weights: Any) -> dict[str, Any]:
        """Metrics of the batch, computed where the outputs are and told to every rank."""
        logs: dict[str, Any] | None = None
        if engine.is_last:
            predictions = keras.tree.pack_sequence_as(self._traced.structure, outcome.outputs)
            size = keras.tree.flatten(x)[0].shape[0]
            self._loss_tracker.update_state(outcome.loss, sample_weight=size)
            self.compute_metrics(x, y, predictions, weights)
            logs = {name: float(value) for name, value in super().get_metrics_result().items()}
        self._last_logs = self.transport.broadcast_object(logs, engine.owner[-1])
        return dict(self._last_logs)

    def _update(self, engine: Engine) -> None:
        """Apply the gradients of this rank's stages."""
        if self._replicas is not None:
            _average(engine.gradients, self._replicas)
        scale = np.float32(1.0)
        if self._clip_all is not None:
            squares = np.array([sum(float(tf.reduce_sum(tf.square(item))) for item in engine.gradients)])
            self.transport.allreduce(squares)
            norm = float(np.sqrt(squares[0]))
            scale = np.float32(self._clip_all / max(norm, self._clip_all))
        if self._apply is None:
            variables = [engine.variables[index] for index in engine.with_gradient]
            gradients = [engine.gradients[index] for index in engine.with_gradient]
            self.optimizer.build(variables)

            def apply(factor: Any) -> None:
                self.optimizer.apply([tf.cast(factor, item.dtype) * item for item in gradients], variables)
                for item in gradients:
                    item.assign(tf.zeros_like(item))

            self._apply = tf.function(apply, autograph=False)
        if engine.with_gradient:
            self._apply(tf.constant(scale))

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

    def _batch(self, x: Any, y: Any, weights: Any) -> Batch:
        if isinstance(x, dict) and all(tensor.name in x for tensor in self._traced.inputs):
            inputs = [x[tensor.name] for tensor in self._traced.inputs]
        else:
            inputs = keras.tree.flatten(x)
        if len(inputs) != len(self._traced.inputs):
            raise ValueError(f"The model takes {len(self._traced.inputs)} inputs. Received: {len(inputs)}.")
        self._given.targets, self._given.sample_weights = y, weights
        targets = [] if y is None else keras.tree.flatten(y)
        sample_weights = [] if weights is None else keras.tree.flatten(weights)
        return Batch(
            [_numpy(item) for item in inputs],
            [_numpy(item) for item in targets],
            [_numpy(item) for item in sample_weights],
        )

    def _quiet(self, options: dict[str, Any]) -> None:
        """One progress bar, the first rank's."""
        if self.transport.rank or (self._replicas is not None and self._replicas.rank):
            options["verbose"] = 0


def _sums_losses(loss: Any) -> bool:
    """Whether losses are sums over the batch (otherwise they are means).

    Raises:
        ValueError: Some are and some are not, or a loss is neither: its micro-batches would not add up to the batch.
    """
    reductions = {getattr(item, "reduction", "sum_over_batch_size") for item in keras.tree.flatten(loss)}
    kinds = {
        "sum" if item == "sum" else "mean" for item in reductions if item in ("sum", "sum_over_batch_size", "mean")
    }
    if len(kinds) > 1 or not reductions <= {"sum", "sum_over_batch_size", "mean"}:
        raise ValueError(
            "A pipeline adds up the losses of micro-batches: all losses must have the reduction 'sum_over_batch_size', "
            f"or all 'sum'. Received: {sorted(str(item) for item in reductions)}."
        )
    return kinds == {"sum"}


def _average(gradients: Sequence[Any], replicas: Transport) -> None:
    """The mean of the replicas' gradients, in one buffer."""
    if not gradients:
        return
    arrays = [np.asarray(item) for item in gradients]
    buffer = np.concatenate([array.ravel().astype(np.float32, copy=False) for array in arrays])
    replicas.allreduce(buffer)
    buffer /= replicas.size
    start = 0
    for item, array in zip(gradients, arrays, strict=True):
        item.assign(buffer[start : start + array.size].reshape(array.shape).astype(array.dtype, copy=False))
        start += array.size


def _joined(*parts: Any) -> Any:
    return tf.concat(parts, axis=0)


def _numpy(item: Any) -> Any:
    array = np.ascontiguousarray(np.asarray(item))
    if array.dtype.hasobject:
        raise ValueError(
            "A pipeline takes numbers. Turn strings into numbers in the input pipeline (tf.data), not in the model."
        )
    return array

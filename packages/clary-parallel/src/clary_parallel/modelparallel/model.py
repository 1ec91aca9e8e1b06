"""The model that a step function calls: an ordinary Keras model, whose call runs in stages over the ranks."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clary_parallel.errors import NotOffered, ParallelError
from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel import bundles, hooks, job, tracing
from clary_parallel.modelparallel.parts import Parts, parts_of
from clary_parallel.partitioning import describe_plan
from clary_parallel.pipelining import held
from clary_parallel.pipelining.gathering import written_to_disk

_Model: Any = keras.Model
_models: weakref.WeakSet[Any] = weakref.WeakSet()


def parted_models() -> list[Any]:
    """The models that were parted in this process, in the order in which they were called, which is every rank's."""
    return sorted((model for model in _models if model.parts().parted), key=lambda model: model.parts().number)


class _Holder:
    """What a model keeps of its own; a plain object, so that Keras does not track it."""

    def __init__(self) -> None:
        self.parts: Parts | None = None
        self.whole = False
        self.at_parting: list[Callable[[], Any]] = []


class DistributedModel(_Model):
    """A Keras model that is parted over ranks: subclass it, or give `inputs` and `outputs` as of a functional model.

    Called inside a function under `@smp.step` only. Once parted (at the first such call), its variables are those of
    this rank's partition.

    Args:
        inputs: Symbolic inputs of a functional model, or a whole functional or Sequential model.
        outputs: Symbolic outputs of a functional model.
        options: Arguments of keras.Model (name, dtype, trainable).
    """

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        # Keras makes a functional model of symbolic inputs and outputs; here that model stands inside this one.
        return super().__new__(cls)

    def __init__(self, inputs: Any = None, outputs: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self._smp = _Holder()
        self._inner = None
        if isinstance(inputs, keras.Model) and outputs is None:
            self._inner = inputs
        elif inputs is not None or outputs is not None:
            self._inner = keras.Model(inputs, outputs)
        self.built = self._inner is not None and self._inner.built

    def call(self, *arguments: Any, **options: Any) -> Any:
        """The functional model's call; a subclass has its own."""
        if self._inner is None:
            raise NotImplementedError(f"{type(self).__name__} must define call(self, inputs), or be given outputs.")
        return self._inner(*arguments, **options)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        step = tracing.current()
        symbolic = any(isinstance(item, keras.KerasTensor) for item in keras.tree.flatten((arguments, options)))
        if symbolic or self._smp.whole:
            return super().__call__(*arguments, **options)
        if step is None:
            raise ParallelError(
                f"Model {self.name!r} may be called inside a function under @smp.step only: no rank holds all of it. "
                "Write an evaluation as a step of its own, or use model.save_model() and load the whole model."
            )
        training = options.pop("training", None)
        if training is not None and self._takes_training():
            options["training"] = training
        return step.call(self.parts(), arguments, options, bool(training))

    def parts(self) -> Parts:
        """The model's parts on this rank."""
        if self._smp.parts is None:
            _models.add(self)
            self._smp.parts = parts_of(self, self._inner, job.current(), self._when_parted)
        return self._smp.parts

    @property
    def trainable_variables(self) -> list[Any]:
        """This rank's trainable variables, once the model is parted."""
        return [item for item in self._mine() if item.trainable] if self._parted() else super().trainable_variables

    @property
    def non_trainable_variables(self) -> list[Any]:
        """This rank's other variables, once the model is parted."""
        if self._parted():
            return [item for item in self._mine() if not item.trainable]
        return super().non_trainable_variables

    @property
    def variables(self) -> list[Any]:
        """This rank's variables, once the model is parted."""
        return self._mine() if self._parted() else super().variables

    @property
    def trainable_weights(self) -> list[Any]:
        """The same as `trainable_variables`."""
        return self.trainable_variables

    @property
    def non_trainable_weights(self) -> list[Any]:
        """The same as `non_trainable_variables`."""
        return self.non_trainable_variables

    @property
    def weights(self) -> list[Any]:
        """The same as `variables`."""
        return self.variables

    @property
    def losses(self) -> list[Any]:
        """Losses of weights, activities and `add_loss`, for a step function to add to its loss.

        After the model's call in a step: one number, the sum over all partitions. Elsewhere those of the weights of
        this rank.
        """
        step = tracing.current()
        if step is not None and step.parts is not None and step.parts is self._smp.parts:
            return [step.added_losses()]
        return [item.regularizer(item) for item in self.trainable_variables if getattr(item, "regularizer", None)]

    def whole_variables(self) -> list[Any]:
        """The variables of all partitions, layer after layer; those of other ranks have no value here."""
        return _Model.variables.fget(self)

    def get_weights(self) -> list[Any]:
        """The whole model's weights, layer after layer. Collective once the model is parted."""
        values = self.parts().gathering().everywhere() if self._parted() else {}
        return [values[id(item)] if id(item) in values else item.numpy() for item in _Model.weights.fget(self)]

    def summary(self, *arguments: Any, **options: Any) -> None:
        """The model's summary; once parted, with the table of its partitions."""
        super().summary(*arguments, **options)
        plan = self.parts().plan if self._parted() else None
        if plan is not None:
            options.get("print_fn", print)(describe_plan(plan))

    def profile(self, *arguments: Any, **options: Any) -> None:
        """Take an example of the model's input, as older releases of the library want it before the first step.

        Nothing is learned from it here: the first step has the shapes, and with "optimize": "speed" measures the times.
        """

    def save_model(self, save_path: str = "/opt/ml/model") -> None:
        """Write the whole model with its current weights as a SavedModel. Collective; the first rank writes.

        It asks the other ranks for their weights, and holds a few of them at a time.

        Args:
            save_path: Folder of the SavedModel.
        """
        if not self._parted():
            raise ParallelError("A model can be saved once it was called in a step: its input shapes are unknown.")
        here = job.current()
        if here.replicas.rank == 0:
            with self.parts().gathering().on_first_rank() as is_first:
                if is_first:
                    absent = [item for item in self.whole_variables() if held.is_absent(item)]
                    with bundles.hollow(absent):
                        self.whole().export(save_path, verbose=False)
                    bundles.complete_saved_model(Path(save_path), absent)
        here.world.barrier()

    def save_weights(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Write the whole model's weights, as keras.Model does. Collective; the first rank writes."""
        here = job.current()
        if here.replicas.rank == 0:
            with self.parts().gathering().on_first_rank() as is_first, written_to_disk():
                if is_first:
                    super().save_weights(filepath, *arguments, **options)
        here.world.barrier()

    def load_weights(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Load weights that any number of partitions saved, or one process; each rank takes what it holds.

        Of a subclassed model before its first step this only remembers the file: it is loaded when the model is parted.
        """
        if self.built:
            super().load_weights(filepath, *arguments, **options)
        else:
            self._smp.at_parting.append(functools.partial(super().load_weights, filepath, *arguments, **options))

    def save(self, *arguments: Any, **options: Any) -> None:
        """Not offered: a parted model is saved as a SavedModel, or its weights are."""
        raise NotOffered(
            "smp.DistributedModel.save is not offered: use save_model(path) for a SavedModel, save_weights(path), or "
            "smp.CheckpointManager."
        )

    def whole(self) -> Any:
        """The whole model as an ordinary functional Keras model, with the weights that this rank holds."""
        traced = self.parts().first_way().traced
        inputs = traced.inputs[0] if len(traced.inputs) == 1 else list(traced.inputs)
        return keras.Model(inputs, traced.structure, name=self.name)

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Not offered: the loop is the script's."""
        raise _no_loop("compile")

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """Not offered: the loop is the script's."""
        raise _no_loop("fit")

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """Not offered: the loop is the script's."""
        raise _no_loop("evaluate")

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """Not offered: the loop is the script's."""
        raise _no_loop("predict")

    def _when_parted(self) -> None:
        self.built = True
        for action in self._smp.at_parting:
            action()
        hooks.run()

    def _takes_training(self) -> bool:
        return bool(getattr(self, "_call_has_training_arg", False)) and self._inner is None

    def _parted(self) -> bool:
        holder = self.__dict__.get("_smp")
        return holder is not None and holder.parts is not None and holder.parts.parted

    def _mine(self) -> list[Any]:
        return self.parts().variables()


def _no_loop(name: str) -> NotOffered:
    return NotOffered(
        f"smp.DistributedModel.{name} is not offered: write the loop with @smp.step, or use "
        "clary_parallel.pipeline(model, partitions=2, microbatches=8), which has compile, fit, evaluate and predict."
    )

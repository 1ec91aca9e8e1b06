"""Horovod's elastic training among ranks that stay the same: state that is synchronised, committed and restored.

Jobs here do not grow or shrink, so that no host is ever added: a program trains once, from the state that all ranks
have after `sync`. That is also what Horovod does with such a program under mpirun.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from clary_parallel.data import world
from clary_parallel.data.agreement import Call
from clary_parallel.data.variables import broadcast_variables
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired


class ObjectState:
    """Python objects, given by name, that all ranks have in common; each is an attribute of the same name."""

    def __init__(self, **objects: Any) -> None:
        self._names = list(objects)
        self._reset_callbacks: list[Callable[[], Any]] = []
        for name, value in objects.items():
            setattr(self, name, value)
        self.save()

    def register_reset_callbacks(self, callbacks: Iterable[Callable[[], Any]]) -> None:
        """Name functions to be called when the ranks change; they do not, so that only `on_reset` calls them."""
        self._reset_callbacks.extend(callbacks)

    def on_reset(self) -> None:
        """Call the functions of `register_reset_callbacks`."""
        for callback in self._reset_callbacks:
            callback()

    def check_host_updates(self) -> None:
        """Look for hosts that came or went: there are none."""

    def commit(self) -> None:
        """Keep the state as it is now."""
        self.save()
        self.check_host_updates()

    def save(self) -> None:
        """Keep the state as it is now, for `restore`."""
        self._saved = {name: getattr(self, name) for name in self._names}

    def restore(self) -> None:
        """Go back to the state that was kept last."""
        for name, value in self._saved.items():
            setattr(self, name, value)

    def sync(self) -> None:
        """Give every rank the first rank's state. Collective."""
        self.save()
        if self._names:
            world.agreement().agree(Call("sync", ", ".join(self._names)))
            self._saved = world.transport().broadcast_object(self._saved, 0)
            ObjectState.restore(self)


class TensorFlowState(ObjectState):
    """Variables, and objects by name, that all ranks have in common.

    Args:
        variables: the variables.
        session: accepted for scripts of TensorFlow 1, whose variables have no values without one; must be None.
        objects: Python objects by name.
    """

    def __init__(self, variables: Iterable[Any] = (), session: Any = None, **objects: Any) -> None:
        if session is not None or not tf.executing_eagerly():
            raise ValueError(
                "elastic.TensorFlowState holds variables of eager TensorFlow. In sessions of TensorFlow 1, use "
                "broadcast_global_variables(0), and a tf.compat.v1.train.Saver."
            )
        self._given = list(variables)
        super().__init__(**objects)

    def save(self) -> None:
        """Keep the objects and the variables' values, for `restore`."""
        super().save()
        self._values = [np.array(tf.convert_to_tensor(variable)) for variable in self._variables()]

    def restore(self) -> None:
        """Go back to what was kept last."""
        super().restore()
        for variable, value in paired(self._variables(), self._values):
            variable.assign(value)

    def sync(self) -> None:
        """Give every rank the first rank's variables and objects. Collective."""
        super().sync()
        broadcast_variables(self._variables(), 0)
        self.save()

    def _variables(self) -> list[Any]:
        return self._given


class TensorFlowKerasState(TensorFlowState):
    """A model with its optimizer, and objects by name, that all ranks have in common.

    Args:
        model: a Keras model.
        optimizer: its optimizer; by default the one it was compiled with.
        backend: accepted for older scripts, without effect.
        objects: Python objects by name, such as epoch=0, batch=0.
    """

    def __init__(self, model: Any, optimizer: Any = None, backend: Any = None, **objects: Any) -> None:
        self.model = model
        self.optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        super().__init__(**objects)

    def _variables(self) -> list[Any]:
        state: Any = getattr(self.optimizer, "variables", [])
        state = state() if callable(state) else state
        return [*self.model.weights, *state]


KerasState = TensorFlowKerasState


def run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of a state train from the state that all ranks have in common."""

    @functools.wraps(function)
    def synchronised(state: Any, *arguments: Any, **named: Any) -> Any:
        state.sync()
        return function(state, *arguments, **named)

    return synchronised


class CommitStateCallback(tf.keras.callbacks.Callback):
    """Commit the state every some batches, and at the end of each epoch."""

    def __init__(self, state: Any, batches_per_commit: int = 1) -> None:
        super().__init__()
        self.state = state
        self.batches_per_commit = batches_per_commit

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % self.batches_per_commit == 0:
            self.state.commit()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.commit()


class UpdateBatchStateCallback(tf.keras.callbacks.Callback):
    """Keep the state's `batch`: that of the epoch while it goes on, 0 after it."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.state.batch = batch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.batch = 0


class UpdateEpochStateCallback(tf.keras.callbacks.Callback):
    """Keep the state's `epoch`: how many are done, those before this `fit` included."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state
        self._before = state.epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self._before = self.state.epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.state.epoch = self._before + epoch + 1


__all__ = [
    "CommitStateCallback", "KerasState", "ObjectState", "TensorFlowKerasState", "TensorFlowState",
    "UpdateBatchStateCallback", "UpdateEpochStateCallback", "run",
]  # fmt: skip

"""What runs around `fit` on every rank, and which of the user's callbacks run on which rank."""

from __future__ import annotations

from typing import Any

from clary_parallel.data import world
from clary_parallel.data.sharded_state import whole_variables
from clary_parallel.data.variables import average_variables, broadcast_variables
from clary_parallel.frameworks import keras

# They write files or to the network: once is enough, and several at once would spoil each other's files.
_RANK_ZERO_ONLY = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def callbacks_here(callbacks: Any, rank: int) -> list[Any]:
    """The user's callbacks that run on a rank: those that write files on rank 0 only.

    A callback of the user's own runs on rank 0 only when it has an attribute `rank_zero_only = True`.
    """
    given = [] if callbacks is None else callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [each for each in given if rank == 0 or not _for_rank_zero(each)]


def _for_rank_zero(callback: Any) -> bool:
    return bool(getattr(callback, "rank_zero_only", isinstance(callback, _RANK_ZERO_ONLY)))


class FirstCallback(keras.callbacks.Callback):
    """Before the user's callbacks: at an epoch's end, BatchNormalization's moving statistics are everyone's mean."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        average_variables(self.model.non_trainable_weights)


class LastCallback(keras.callbacks.Callback):
    """After the user's callbacks: all ranks start from rank 0's weights and epoch, and stop together."""

    def on_train_begin(self, logs: Any = None) -> None:
        # Rank 0 may have restored a backup just now.
        variables = [*self.model.weights, *whole_variables(self.model.optimizer)]
        broadcast_variables(variables)
        self.model._initial_epoch = world.transport().broadcast_object(self.model._initial_epoch)
        _own_randomness(self.model, world.rank())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = any(world.transport().allgather_object(bool(self.model.stop_training)))


def _own_randomness(model: Any, rank: int) -> None:
    """Let dropout differ between ranks: their seeds are moved apart, once."""
    if getattr(model, "_clary_seeded", False):
        return
    object.__setattr__(model, "_clary_seeded", True)
    for variable in model.variables:
        if "seed_generator_state" in variable.path:
            variable.assign(variable + rank * 1_000_003)

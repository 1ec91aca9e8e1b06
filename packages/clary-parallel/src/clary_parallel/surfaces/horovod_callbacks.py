"""Horovod's Keras callbacks, on the Keras that tf.keras is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from clary_parallel.data import world
from clary_parallel.data.variables import broadcast_variables, summed
from clary_parallel.errors import NotOffered
from clary_parallel.frameworks import tf
from clary_parallel.older_pythons import paired


class BroadcastGlobalVariablesCallback(tf.keras.callbacks.Callback):
    """Give every rank the root's weights and optimizer state, once, after the first batch (when all of them exist)."""

    def __init__(self, root_rank: int, device: str = "") -> None:
        super().__init__()
        self.root_rank = root_rank
        self.broadcast_done = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.broadcast_done:
            return
        state: Any = self.model.optimizer.variables
        state = state() if callable(state) else state
        broadcast_variables([*self.model.weights, *state], self.root_rank)
        self.broadcast_done = True


class MetricAverageCallback(tf.keras.callbacks.Callback):
    """Average the epoch's metrics over the ranks; callbacks after this one see the averages."""

    def __init__(self, device: str = "") -> None:
        super().__init__()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs:
            names = sorted(name for name, value in logs.items() if np.ndim(value) == 0)
            values = summed([np.asarray(logs[name], np.float64) for name in names], f"metrics {', '.join(names)}")
            logs.update({name: float(value) / world.size() for name, value in paired(names, values)})


class LearningRateScheduleCallback(tf.keras.callbacks.Callback):
    """Set the learning rate to initial_lr × multiplier while start_epoch <= epoch < end_epoch.

    Args:
        initial_lr: the rate that is multiplied.
        multiplier: a number, or a function of the epoch: a whole number with `staircase`, else with the fraction of the
            epoch that is done.
        momentum_correction: scale the momentum for the batch at which the rate changes. It needs a momentum that is a
            variable (legacy Keras); Keras 3 compiles it into the step as a constant, where this has no effect.
        steps_per_epoch: needed without staircase where Keras does not know it.
    """

    def __init__(
        self,
        initial_lr: float,
        multiplier: float | Callable[[float], float],
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        self.initial_lr = initial_lr
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.staircase = staircase if callable(multiplier) else True
        self.momentum_correction = momentum_correction
        self.steps_per_epoch = steps_per_epoch
        self.multiplier: Callable[[float], float] = multiplier if callable(multiplier) else lambda epoch: multiplier
        self.current_epoch = 0
        self._momentum: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        if not self.staircase and not self.steps_per_epoch:
            self.steps_per_epoch = self.params.get("steps")
            if not self.steps_per_epoch:
                raise ValueError("The number of batches is unknown: give steps_per_epoch to this callback.")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.current_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        ended = self.end_epoch is not None and self.current_epoch >= self.end_epoch
        if self.current_epoch < self.start_epoch or ended:
            return
        if self.staircase and batch == 0:
            self._set(self.current_epoch)
        elif not self.staircase and self.steps_per_epoch:
            self._set(self.current_epoch + batch / self.steps_per_epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._momentum is not None:
            self.model.optimizer.momentum.assign(self._momentum)
            self._momentum = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["lr"] = float(np.asarray(self.model.optimizer.learning_rate))

    def _set(self, epoch: float) -> None:
        optimizer = self.model.optimizer
        if callable(optimizer.learning_rate) and not hasattr(optimizer.learning_rate, "assign"):
            raise NotOffered(
                "The optimizer has a learning rate schedule of its own: give it a number to use this callback."
            )
        before = float(np.asarray(optimizer.learning_rate))
        now = self.initial_lr * self.multiplier(epoch)
        optimizer.learning_rate = now
        momentum = getattr(optimizer, "momentum", None)
        if self.momentum_correction and hasattr(momentum, "assign") and before > 0:
            self._momentum = float(np.asarray(momentum))
            optimizer.momentum.assign(self._momentum * now / before)


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raise the learning rate from initial_lr / size to initial_lr over warmup_epochs (Goyal et al. 2017).

    initial_lr is the rate for all ranks together, usually the rate of one process × size.
    """

    def __init__(
        self,
        initial_lr: float,
        warmup_epochs: int = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ) -> None:
        def multiplier(epoch: float) -> float:
            # The rate of a batch is that at its end, so that the last batch of the warm-up has the full rate.
            done = epoch + 1.0 / (self.steps_per_epoch or 1)
            return (done * (world.size() - 1) / warmup_epochs + 1) / world.size()

        super().__init__(
            initial_lr,
            multiplier,
            end_epoch=warmup_epochs,
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if epoch + 1 == self.end_epoch and self.verbose > 0:
            rate = float(np.asarray(self.model.optimizer.learning_rate))
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {rate:g}.")


class BestModelCheckpoint(tf.keras.callbacks.ModelCheckpoint):
    """Keras' ModelCheckpoint that keeps the best whole model only; on each rank that has it among its callbacks."""

    def __init__(
        self,
        filepath: str | None = None,
        monitor: str = "val_loss",
        verbose: int = 0,
        mode: str = "auto",
        save_freq: str | int = "epoch",
    ) -> None:
        if filepath is None:
            raise ValueError("BestModelCheckpoint needs filepath=...: where the best model is written.")
        super().__init__(
            filepath, monitor=monitor, verbose=verbose, save_best_only=True, mode=mode, save_freq=save_freq
        )


def __getattr__(name: str) -> Any:
    if name in ("CommitStateCallback", "UpdateBatchStateCallback", "UpdateEpochStateCallback"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: it is elastic.{name}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

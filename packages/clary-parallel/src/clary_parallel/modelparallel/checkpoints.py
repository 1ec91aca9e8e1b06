"""Checkpoints of a parted model: whole ones, in TensorFlow's own format, as one process would write them.

Saving, the first rank writes the model and an optimizer with the state of all partitions, and asks the other ranks for
one variable after the other. Restoring, the first rank reads them one after the other and every rank takes its part,
under any number of partitions. So no rank ever holds more than its part and a few variables.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from clary_parallel.errors import ParallelError
from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel import bundles, hooks, job
from clary_parallel.modelparallel.model import DistributedModel
from clary_parallel.modelparallel.whole_optimizer import WholeOptimizer, whole_optimizer
from clary_parallel.pipelining import held
from clary_parallel.pipelining.gathering import Gathering
from clary_parallel.transport import Transport

_Optimizer: Any = keras.optimizers.Optimizer


class CheckpointManager:
    """Saves and restores whole checkpoints; as `tf.train.CheckpointManager`. Every rank makes the same calls.

    Args:
        checkpoint: A `tf.train.Checkpoint` of models, optimizers and variables.
        directory: Where checkpoints are written, by the first rank.
        max_to_keep: How many are kept; None keeps all.
        checkpoint_name: How their files' names begin.
    """

    def __init__(
        self,
        checkpoint: Any,
        directory: str = "/opt/ml/checkpoints",
        max_to_keep: int | None = None,
        checkpoint_name: str = "ckpt",
    ) -> None:
        self._checkpoint, self._directory = checkpoint, os.fspath(directory)
        self._keep, self._name = max_to_keep, checkpoint_name
        children: dict[str, Any] = checkpoint._trackable_children()
        self._children = {name: child for name, child in children.items() if name != "save_counter"}
        for name, child in self._children.items():
            if not isinstance(child, _Optimizer | keras.layers.Layer | keras.Variable | tf.Variable | tf.Module):
                raise ParallelError(
                    f"smp.CheckpointManager saves models, optimizers and variables. Received: {name}="
                    f"{type(child).__name__}. Save it with a tf.train.CheckpointManager of each rank's own."
                )

    @property
    def directory(self) -> str:
        """Where checkpoints are written."""
        return self._directory

    @property
    def checkpoint(self) -> Any:
        """The `tf.train.Checkpoint` that is saved and restored."""
        return self._checkpoint

    @property
    def latest_checkpoint(self) -> str | None:
        """The newest checkpoint's path, as the first rank sees it. Collective."""
        here = job.current().world
        found = tf.train.latest_checkpoint(self._directory) if here.rank == 0 else None
        return here.broadcast_object(found, 0)

    @property
    def checkpoints(self) -> list[str]:
        """Paths of the checkpoints that are kept, the newest last. Collective."""
        here = job.current().world
        state = tf.train.get_checkpoint_state(self._directory) if here.rank == 0 else None
        return here.broadcast_object(list(state.all_model_checkpoint_paths) if state else [], 0)

    def save(self) -> str:
        """Write a checkpoint of the whole model; return its path. Collective.

        Raises:
            ParallelError: The model was not parted yet.
        """
        here = job.current()
        models = self._models()
        for model in models:
            if not model.parts().parted:
                raise ParallelError("There is nothing to save before the first step: the model is not parted yet.")
        Path(self._directory).mkdir(parents=True, exist_ok=True)
        path = ""
        if here.replicas.rank == 0:
            optimizers = self._whole_optimizers()
            with self._gathering(optimizers).on_first_rank() as is_first:
                if is_first:
                    path = self._write(optimizers)
        self._checkpoint.save_counter.assign_add(1)
        return here.world.broadcast_object(path, 0)

    def restore(self, save_path: str | None = None, restore_prefix: str | None = None) -> str | None:
        """Restore a checkpoint; return its path, or None if there is none. Collective.

        Before the first step this only remembers it: the model is restored when it is parted, before its first forward.

        Args:
            save_path: Which one; by default the newest.
            restore_prefix: Which one, by its name in the directory ("ckpt-2"); None is returned if it is not there.
        """
        path = save_path or (self._named(restore_prefix) if restore_prefix else self.latest_checkpoint)
        if path is None:
            return None
        if all(model.parts().parted for model in self._models()):
            self._read(path)
        else:
            hooks.register_post_partition_hook(lambda: self._read(path))
        return path

    def restore_or_initialize(self) -> str | None:
        """The same as `restore`: what is not restored is initialised already."""
        return self.restore()

    def _named(self, name: str) -> str | None:
        """The path of the checkpoint of this name, if the first rank sees it. Collective."""
        here, path = job.current().world, str(Path(self._directory) / name)
        return here.broadcast_object(path if here.rank == 0 and tf.io.gfile.exists(f"{path}.index") else None, 0)

    def _models(self) -> list[Any]:
        return [child for child in self._children.values() if isinstance(child, DistributedModel)]

    def _whole_optimizers(self) -> dict[str, WholeOptimizer]:
        """The optimizers that were used, for all partitions. Collective over the ranks that hold one model."""
        found = {
            name: whole_optimizer(child, job.current().model)
            for name, child in self._children.items()
            if isinstance(child, _Optimizer)
        }
        return {name: whole for name, whole in found.items() if whole is not None}

    def _owned(self, optimizers: dict[str, WholeOptimizer]) -> list[tuple[Any, int]]:
        """The variables that ranks hold between them, and who holds each; in the same order on every rank."""
        owned: list[tuple[Any, int]] = []
        for model in self._models():
            # What no stage uses, every rank has.
            owned += [(item, model.parts().owner(item) or 0) for item in model.whole_variables()]
        return owned + [pair for whole in optimizers.values() for pair in whole.slots]

    def _gathering(self, optimizers: dict[str, WholeOptimizer]) -> Gathering:
        owned = self._owned(optimizers)
        return Gathering([item for item, _ in owned], {id(item): rank for item, rank in owned}, job.current().model)

    def _write(self, optimizers: dict[str, WholeOptimizer]) -> str:
        """Write the files, then the note of which checkpoints there are, then drop old ones. On the first rank."""
        children = {**self._children, **{name: whole.optimizer for name, whole in optimizers.items()}}
        number = int(self._checkpoint.save_counter.numpy()) + 1
        absent = [item for item, _ in self._owned(optimizers) if held.is_absent(item)]
        path = str(Path(self._directory) / f"{self._name}-{number}")
        whole = tf.train.Checkpoint(**children)
        whole.save_counter.assign(number)
        bundles.write(whole, absent, path)
        state = tf.train.get_checkpoint_state(self._directory)
        before = [kept for kept in (state.all_model_checkpoint_paths if state else []) if kept != path]
        kept = [*before, path][-self._keep :] if self._keep else [*before, path]
        bundles.note_checkpoints(Path(self._directory), kept)
        for old in before:
            if old not in kept:
                bundles.remove(old)
        return path

    def _read(self, path: str) -> None:
        for child in self._children.values():
            if isinstance(child, _Optimizer) and not child.built:
                child.build([item for model in self._models() for item in model.trainable_variables])
        here = job.current().world
        optimizers = self._whole_optimizers()
        owned = [item for item, _ in self._owned(optimizers)]
        shared = [pair for whole in optimizers.values() for pair in whole.shared]
        keys: list[str] = []
        failure = None
        if here.rank == 0:
            try:
                keys = self._keys(path, optimizers, [*owned, *(item for item, _ in shared)])
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                failure = f"Checkpoint {path} cannot be restored: {(str(error).strip().splitlines() or [''])[0]}"
        failure, keys = here.broadcast_object((failure, keys), 0)
        if failure:
            raise ParallelError(f"{failure} Was it written by the same model and optimizer?")
        read = bundles.reader_of(path) if here.rank == 0 else None
        for key, item in zip(keys, [*owned, *(mine for _, mine in shared)], strict=True):
            value = np.array(read(key), order="C") if read else np.empty(item.shape, _numpy_type(item))
            here.broadcast(value.reshape(-1).view(np.uint8), 0)
            if not held.is_absent(item):
                item.assign(value)
        for child in (child for name, child in self._children.items() if name in self._others()):
            _spread(_variables(child), here)
        counter = np.array([int(self._checkpoint.save_counter.numpy())])
        here.broadcast(counter)
        self._checkpoint.save_counter.assign(int(counter[0]))

    def _keys(self, path: str, optimizers: dict[str, WholeOptimizer], variables: list[Any]) -> list[str]:
        """Where the checkpoint holds each variable; what every rank has of its own is read at once."""
        parted = {name: child for name, child in self._children.items() if name not in self._others()}
        parted.update({name: whole.optimizer for name, whole in optimizers.items()})
        keys = bundles.keys_in(path, parted, variables)
        others = tf.train.Checkpoint(**self._others())
        others.restore(path).assert_existing_objects_matched()
        self._checkpoint.save_counter.assign(others.save_counter)
        return keys

    def _others(self) -> dict[str, Any]:
        """What is saved beside models and optimizers."""
        return {
            name: child
            for name, child in self._children.items()
            if not isinstance(child, DistributedModel | _Optimizer)
        }


def _spread(mine: list[Any], ranks: Transport) -> None:
    """Give every rank the first rank's values of variables that all have. Collective over all ranks."""
    for item in mine:
        value = np.array(item.numpy(), order="C")
        ranks.broadcast(value.reshape(-1).view(np.uint8), 0)
        item.assign(value)


def _variables(child: Any) -> list[Any]:
    return [child] if isinstance(child, keras.Variable | tf.Variable) else list(child.variables)


def _numpy_type(variable: Any) -> Any:
    return tf.as_dtype(variable.dtype).as_numpy_dtype

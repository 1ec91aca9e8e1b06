"""Checkpoints of a parted model: whole ones, in TensorFlow's own format, as one process would write them.

Saving, every rank hands over what it holds: the first rank writes the model and an optimizer with the state of all
partitions, and holds them all for that while. Restoring, the first rank reads and every rank takes its part, under any
number of partitions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clary_parallel.errors import ParallelError
from clary_parallel.frameworks import keras, tf
from clary_parallel.modelparallel import hooks, job
from clary_parallel.modelparallel.model import DistributedModel, parted_models
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
            with self._whole_on_first_rank():
                children = dict(self._children)
                for name, child in self._children.items():
                    if isinstance(child, _Optimizer):
                        whole = _whole_optimizer(child) if here.world.rank == 0 else None
                        _gather(child, whole, here.model)
                        children[name] = child if whole is None else whole
                if here.world.rank == 0:
                    path = self._write(children)
        self._checkpoint.save_counter.assign_add(1)
        return here.world.broadcast_object(path, 0)

    def restore(self, save_path: str | None = None) -> str | None:
        """Restore a checkpoint; return its path, or None if there is none. Collective.

        Before the first step this only remembers it: the model is restored when it is parted, before its first forward.

        Args:
            save_path: Which one; by default the newest.
        """
        path = save_path or self.latest_checkpoint
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

    def _models(self) -> list[Any]:
        return [child for child in self._children.values() if isinstance(child, DistributedModel)]

    def _write(self, children: dict[str, Any]) -> str:
        whole = tf.train.Checkpoint(**children)
        whole.save_counter.assign(self._checkpoint.save_counter)
        manager = tf.train.CheckpointManager(whole, self._directory, self._keep, checkpoint_name=self._name)
        return manager.save()

    def _whole_on_first_rank(self) -> contextlib.ExitStack:
        """Inside, the first rank of this replica holds the weights of all partitions."""
        with contextlib.ExitStack() as stack:
            for model in self._models():
                stack.enter_context(model.parts().gathering().all_on_first_rank())
            return stack.pop_all()

    def _read(self, path: str) -> None:
        for child in self._children.values():
            if isinstance(child, _Optimizer) and not child.built:
                child.build([item for model in self._models() for item in model.trainable_variables])
        with self._whole_on_first_rank():
            self._read_whole(path)

    def _read_whole(self, path: str) -> None:
        here = job.current()
        children = dict(self._children)
        failure = None
        if here.world.rank == 0:
            for name, child in self._children.items():
                if isinstance(child, _Optimizer):
                    children[name] = _whole_optimizer(child)
            whole = tf.train.Checkpoint(**children)
            try:
                whole.restore(path).assert_existing_objects_matched()
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                failure = f"Checkpoint {path} cannot be restored: {str(error).strip().splitlines()[0]}"
            else:
                self._checkpoint.save_counter.assign(whole.save_counter)
        failure = here.world.broadcast_object(failure, 0)
        if failure:
            raise ParallelError(f"{failure} Was it written by the same model and optimizer?")
        for name, child in self._children.items():
            _spread(_variables(children[name]), _variables(child), here.world)
        counter = np.array([int(self._checkpoint.save_counter.numpy())])
        here.world.broadcast(counter)
        self._checkpoint.save_counter.assign(int(counter[0]))


def _whole_optimizer(optimizer: Any) -> Any:
    """An optimizer like this one, with room for the state of all partitions. One that was never used is itself."""
    if not optimizer.built:
        return optimizer
    whole: list[Any] = []
    own: list[Any] = list(optimizer._trainable_variables)
    for model in parted_models():
        everything = model.whole_variables()
        if any(one is item for one in everything for item in own):
            whole += [item for item in everything if item.trainable and model.parts().owner(item) is not None]
    whole += [item for item in own if not any(item is one for one in whole)]
    like = type(optimizer).from_config(optimizer.get_config())
    like.build(whole)
    return like


def _gather(optimizer: Any, whole: Any, ranks: Transport) -> None:
    """Bring every partition's optimizer state into the whole optimizer, on the first rank of a replica. Collective."""
    mine = {item.path: item for item in optimizer.variables}
    told = ranks.allgather_object(
        (int(optimizer.iterations.numpy()), {path: _form(item) for path, item in mine.items()})
    )
    into = {} if whole is None or whole is optimizer else {item.path: item for item in whole.variables}
    # What all ranks have (the number of steps, the learning rate) comes from one that makes steps.
    order = sorted(range(len(told)), key=lambda rank: (-told[rank][0], rank))
    done: set[str] = set()
    for rank in order:
        for path, (shape, dtype) in told[rank][1].items():
            if path in done:
                continue
            done.add(path)
            value = np.array(mine[path].numpy(), order="C") if rank == ranks.rank else np.empty(shape, dtype)
            ranks.broadcast(value.reshape(-1).view(np.uint8), rank)
            if path in into:
                into[path].assign(value)


def _spread(read: dict[str, Any], mine: dict[str, Any], ranks: Transport) -> None:
    """Give every rank the first rank's values of the variables that it has. Collective over all ranks."""
    told = ranks.broadcast_object({key: _form(item) for key, item in read.items()} if ranks.rank == 0 else None, 0)
    for key, (shape, dtype) in told.items():
        value = np.array(read[key].numpy(), order="C") if ranks.rank == 0 else np.empty(shape, dtype)
        ranks.broadcast(value.reshape(-1).view(np.uint8), 0)
        if key in mine:
            mine[key].assign(value)


def _variables(child: Any) -> dict[str, Any]:
    """Variables of what is saved, by a name that is the same on every rank."""
    if isinstance(child, keras.Variable | tf.Variable):
        return {"": child}
    if isinstance(child, _Optimizer):
        return {item.path: item for item in child.variables}
    listed: Callable[[], list[Any]] = getattr(child, "whole_variables", lambda: list(child.variables))
    return {str(number): item for number, item in enumerate(listed())}


def _form(variable: Any) -> tuple[tuple[int, ...], Any]:
    value = variable.numpy()
    return value.shape, value.dtype

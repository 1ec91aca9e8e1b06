"""A stage's network as a step function runs it, at one way of calling the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clary_parallel.frameworks import keras
from clary_parallel.pipelining.traced_stage import sum_of_losses


class StageNetwork:
    """A stage's network at one way of calling the model: training or not is settled, and layers add no losses.

    Args:
        network: Keras's.
        training: Whether layers behave as in training.
        adds_losses: Whether the losses of its layers are its last output.
        before: Which input has those of the stages before, which count in.
    """

    def __init__(self, network: Any, training: bool, adds_losses: bool = False, before: int | None = None) -> None:
        self._network, self._training = network, training
        self._adds_losses, self._before = adds_losses, before
        self.losses: list[Any] = []

    def with_losses(self, before: int | None) -> StageNetwork:
        """The same, with the losses of its layers as its last output."""
        return StageNetwork(self._network, self._training, True, before)

    @property
    def trainable_variables(self) -> list[Any]:
        """The network's."""
        return self._network.trainable_variables

    @property
    def non_trainable_variables(self) -> list[Any]:
        """The network's."""
        return self._network.non_trainable_variables

    @property
    def variables(self) -> list[Any]:
        """The network's."""
        return self._network.variables

    def __call__(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        own = list(inputs)
        earlier = [] if self._before is None else [own.pop(self._before)]
        made = self._network(own, training=self._training)
        if not self._adds_losses:
            return made
        return [*keras.tree.flatten(made), sum_of_losses([*earlier, *self._network.losses])]

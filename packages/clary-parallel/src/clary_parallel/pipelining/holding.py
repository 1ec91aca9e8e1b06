"""What a rank of a pipeline holds of the model and its optimizer, and who holds the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from clary_parallel.pipelining import held
from clary_parallel.pipelining.gathering import Gathering
from clary_parallel.pipelining.layout import StageLayout
from clary_parallel.transport import Transport

Hold = Literal["all", "own"]


class Holding:
    """Makes what this rank holds of a described model; of a model that is there, every rank holds what it is told to.

    Args:
        whole: The user's model, described or with weights.
        hold: What a rank holds of a model with weights, see `pipeline`.
        layouts: Its stages.
        partitions: Ranks of the pipeline.
        transport: The pipeline's ranks.
        replicas: This rank and its likes in other replicas, if there are any.
    """

    def __init__(
        self,
        whole: Any,
        hold: Hold,
        layouts: Sequence[StageLayout],
        partitions: int,
        transport: Transport,
        replicas: Transport | None,
    ) -> None:
        self._whole, self._transport, self._replicas = whole, transport, replicas
        self._owner: dict[int, int] = {}
        for layout in layouts:
            for variable in layout.network.variables:
                self._owner.setdefault(id(variable), layout.number % partitions)
        self._own = {key for key, owner in self._owner.items() if owner == transport.rank}
        self.is_divided = hold == "own" or any(held.has_no_value(variable) for variable in whole.variables)
        self._slots: list[tuple[Any, Any]] = []
        held.hold(whole.variables, self._own)
        if hold == "own":
            for variable in whole.variables:
                if self._owner.get(id(variable), transport.rank) != transport.rank:
                    held.release(variable)
        if self.is_divided:
            held.give_back()

    def agree(self) -> None:
        """Give all replicas the first one's weights. Collective."""
        if self._replicas is None:
            return
        for variable in self._whole.variables:
            if not held.is_absent(variable):
                value = np.ascontiguousarray(np.asarray(variable.value))
                self._replicas.broadcast(value)
                variable.assign(value)

    def build_optimizer(self, optimizer: Any) -> None:
        """Build an optimizer with state for this rank's weights."""
        self._slots = held.build_optimizer(optimizer, self._whole.trainable_variables, self._own)

    def gathering(self) -> Gathering:
        """The variables that some rank does not hold."""
        owner = dict(self._owner)
        owner.update((id(slot), owner[id(variable)]) for variable, slot in self._slots if id(variable) in owner)
        weights = self._whole.variables if self.is_divided else []
        known = [item for item in [*weights, *(slot for _, slot in self._slots)] if id(item) in owner]
        return Gathering(known, owner, self._transport)

    def all_weights(self) -> list[Any]:
        """The values of all of the model's weights, on every rank. Collective."""
        used = [variable for variable in self._whole.weights if id(variable) in self._owner]
        values = Gathering(used, self._owner, self._transport).everywhere()
        return [
            values[id(variable)] if id(variable) in values else np.asarray(variable.value)
            for variable in self._whole.weights
        ]

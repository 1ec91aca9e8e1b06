"""Ways of calling a model in a step function: what is alike for one trace, and the call made again on other tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clary_parallel.frameworks import keras


@dataclass(frozen=True)
class Call:
    """A call of the model in a step function, without its tensors.

    Args:
        structure: The call's (arguments, options); tensors are numbers into `specs`, wrapped in `Slot`.
        specs: (shape, type name) of each tensor, for one micro-batch.
        training: Whether layers behave as in training.
        microbatch: Examples of a micro-batch; None if unknown yet.
    """

    structure: Any
    specs: tuple[tuple[tuple[int | None, ...], str], ...]
    training: bool
    microbatch: int | None

    @property
    def key(self) -> Any:
        """Equal for calls that one trace serves."""
        rest = tuple((rest_of(shape, self.microbatch), dtype) for shape, dtype in self.specs)
        return repr(self.structure), rest, self.training


@dataclass(frozen=True)
class Slot:
    """Where a tensor stands in a call's structure."""

    number: int


class Called:
    """A user's model at one way of calling it, as the tracer wants a subclassed model."""

    built = True

    def __init__(self, user: Any, call: Call) -> None:
        self._user, self._call = user, call
        self.name = user.name
        self.layers = user.layers

    def call(self, inputs: Sequence[Any]) -> Any:
        """Call the user's `call` with these tensors where the call had its own."""

        def filled(item: Any) -> Any:
            return inputs[item.number] if isinstance(item, Slot) else item

        arguments, options = keras.tree.map_structure(filled, self._call.structure)
        return self._user.call(*arguments, **options)


def order_of_inputs(model: Any, structure: Any) -> tuple[int, ...]:
    """For each input of a functional or Sequential model the number of the call's tensor."""
    arguments, options = structure
    given = arguments[0] if arguments else options.get("inputs")
    if isinstance(given, dict) and all(tensor.name in given for tensor in model.inputs):
        slots = [given[tensor.name] for tensor in model.inputs]
    else:
        slots = keras.tree.flatten(given)
    if len(slots) != len(model.inputs) or not all(isinstance(slot, Slot) for slot in slots):
        raise ValueError(f"Model {model.name!r} takes {len(model.inputs)} inputs. Received: {len(slots)}.")
    return tuple(slot.number for slot in slots)


def rest_of(shape: Sequence[int | None], microbatch: int | None) -> tuple[int | None, ...]:
    """A shape whose batch axis is unknown, so that other sizes of micro-batch fit too."""
    if shape and shape[0] in (None, microbatch):
        return (None, *shape[1:])
    return tuple(shape)

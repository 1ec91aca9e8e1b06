"""What is known of a model before it is partitioned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One operation of a model, usually a layer at one of its calls. Sizes are for one micro-batch.

    Args:
        name: Unique in its graph; what users pin and what errors name.
        inputs: Indices of the operations whose outputs it takes; all smaller than its own.
        weight_bytes: Weights stored with it; of shared weights, with the first operation that uses them.
        output_bytes: Its outputs, which are sent when a later stage needs them.
        activation_bytes: What it keeps from its forward for its backward.
        seconds: Time of its forward and backward, measured, or estimated from `flops`.
        flops: Floating-point operations of its forward.
        kind: What it is, for reports: a layer's class.
        replicated: Every rank has its output at hand (a model's input): it belongs to no stage and is never sent.
    """

    name: str
    inputs: tuple[int, ...] = ()
    weight_bytes: int = 0
    output_bytes: int = 0
    activation_bytes: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    kind: str = ""
    replicated: bool = False


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can run.

    Args:
        operations: Each takes outputs of earlier ones only.
        outputs: Indices of the operations whose outputs are the model's. They are needed at the last stage, where the
            loss is.
        together: Groups of operations that must be in one stage, because they share weights.

    Raises:
        ValueError: An operation takes the output of a later one, or two have one name.
    """

    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]
    together: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for index, operation in enumerate(self.operations):
            if any(not 0 <= source < index for source in operation.inputs):
                raise ValueError(
                    f"Operation {operation.name!r} (number {index}) must take outputs of earlier operations. "
                    f"Received: inputs={operation.inputs}."
                )
            if operation.name in seen:
                raise ValueError(f"Two operations are called {operation.name!r}; names must be different.")
            seen.add(operation.name)

    def index(self, name: str) -> int:
        """The number of an operation.

        Raises:
            KeyError: There is none of this name; the message lists names like it.
        """
        for index, operation in enumerate(self.operations):
            if operation.name == name:
                return index
        alike = [operation.name for operation in self.operations if name.lower() in operation.name.lower()][:5]
        hint = f" Did you mean one of {', '.join(alike)}?" if alike else ""
        raise KeyError(f"The model has no operation {name!r}.{hint}")

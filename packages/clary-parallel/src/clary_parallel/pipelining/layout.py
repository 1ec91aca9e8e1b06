"""A partitioned Keras model as stages: which tensors cross each boundary, and a small network for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras  # pyright: ignore[reportMissingImports]

from clary_parallel.analyse import TracedModel


@dataclass(frozen=True)
class StageLayout:
    """One stage of a model, symbolically.

    Args:
        number: Its number, from 0.
        takes: Symbolic tensors that come over the boundary before it, in the order in which they are sent.
        gives: Symbolic tensors that go over the boundary after it; of the last stage the model's outputs. A tensor that
            it only passes on is in both.
        model_inputs: Numbers of the model's inputs that it reads itself.
        uses: The tensors of `takes` that its network reads.
        makes: The tensors of `gives` that its network computes.
        network: From `uses` and the model's inputs to `makes`, with the model's own layers.
        names: Its operations, for messages.
    """

    number: int
    takes: tuple[Any, ...]
    gives: tuple[Any, ...]
    model_inputs: tuple[int, ...]
    uses: tuple[Any, ...]
    makes: tuple[Any, ...]
    network: Any
    names: tuple[str, ...]


def lay_out(traced: TracedModel, stage_of: Sequence[int], stages: int) -> list[StageLayout]:
    """Cut a traced model into stages.

    Args:
        traced: The model.
        stage_of: Stage of each of its calls; -1 for inputs.
        stages: Number of stages.
    """
    producer = {id(tensor): stage_of[index] for index, call in enumerate(traced.calls) for tensor in call.outputs}
    symbolic = {id(tensor): tensor for call in traced.calls for tensor in call.outputs}
    last_use = dict.fromkeys(producer, -1)
    for index, call in enumerate(traced.calls):
        for tensor in call.inputs:
            last_use[id(tensor)] = max(last_use[id(tensor)], stage_of[index])
    for tensor in traced.outputs:
        if producer[id(tensor)] >= 0:
            last_use[id(tensor)] = stages
    input_number = {id(tensor): number for number, tensor in enumerate(traced.inputs)}
    boundaries: list[tuple[Any, ...]] = [()]
    for boundary in range(1, stages):
        boundaries.append(
            tuple(symbolic[key] for key, stage in producer.items() if 0 <= stage < boundary <= last_use[key])
        )
    boundaries.append(tuple(traced.outputs))
    layouts: list[StageLayout] = []
    for number in range(stages):
        members = [index for index, stage in enumerate(stage_of) if stage == number]
        read = {id(tensor) for index in members for tensor in traced.calls[index].inputs}
        takes, gives = boundaries[number], boundaries[number + 1]
        uses = tuple(tensor for tensor in takes if id(tensor) in read)
        direct = sorted(input_number[key] for key in read if key in input_number)
        makes = tuple({id(tensor): tensor for tensor in gives if producer[id(tensor)] == number}.values())
        network = keras.Model([*uses, *(traced.inputs[index] for index in direct)], list(makes), name=f"stage_{number}")
        names = tuple(traced.graph.operations[index].name for index in members)
        layouts.append(StageLayout(number, takes, gives, tuple(direct), uses, makes, network, names))
    return layouts

"""An optimizer with the state of all partitions, of which each rank has its own part, for checkpoints of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clary_parallel.modelparallel.model import parted_models
from clary_parallel.pipelining import held
from clary_parallel.transport import Transport


@dataclass(frozen=True)
class WholeOptimizer:
    """An optimizer like the user's, built for all variables that ranks hold between them.

    Args:
        optimizer: It; its state of this rank's variables is the user's optimizer's own, not a copy.
        slots: Pairs of a variable of its state and the rank that holds it, in the same order on every rank. It is
            absent on the others.
        shared: Its other variables (the number of steps, the learning rate), which every rank has, and the user's; the
            variable itself where the user's has none for it.
    """

    optimizer: Any
    slots: tuple[tuple[Any, int], ...]
    shared: tuple[tuple[Any, Any], ...]


def whole_optimizer(optimizer: Any, ranks: Transport) -> WholeOptimizer | None:
    """The optimizer of all partitions; None if no rank has used it. Collective.

    Args:
        optimizer: The user's.
        ranks: Those that hold one model.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    own: list[Any] = list(inner._trainable_variables) if optimizer.built else []
    # By number: of models that nobody needs any more, each rank may have forgotten others.
    models = {model.parts().number: model for model in parted_models()}
    known = {id(item): number for number, model in models.items() for item in model.whole_variables()}
    used = {known[id(item)] for item in own if id(item) in known}
    told = ranks.allgather_object((int(optimizer.iterations.numpy()) if optimizer.built else -1, used))
    if all(steps < 0 for steps, _ in told):
        return None
    owner: dict[int, int] = {}
    whole: list[Any] = []
    for model in (models[number] for number in sorted({number for _, numbers in told for number in numbers})):
        for item in model.whole_variables():
            rank = model.parts().owner(item)
            if item.trainable and rank is not None:
                owner[id(item)] = rank
                whole.append(item)
    # Further variables are the script's own, which every rank has.
    whole += [item for item in own if id(item) not in owner]
    like, references = _alike(optimizer, whole)
    mine: dict[tuple[int, int], Any] = {}
    if optimizer.built:
        for reference, real in zip(_alike(optimizer, own)[1], optimizer.variables, strict=True):
            mine[reference] = real
    slots: list[tuple[Any, int]] = []
    shared: list[tuple[Any, Any]] = []
    for reference, item in zip(references, like.variables, strict=True):
        real = mine.get(reference)
        if reference[0] == 0:
            # Adafactor makes placeholders, one for each bias: a rank has those of its own only.
            shared.append((item, item if real is None else real))
            continue
        if real is not None:
            held.give(item, real._value)
        slots.append((item, owner.get(reference[0], 0)))
    # What all ranks have comes from one that makes steps.
    first = max(range(len(told)), key=lambda rank: (told[rank][0], -rank))
    values = ranks.broadcast_object([item.numpy() for _, item in shared] if ranks.rank == first else None, first)
    for (item, _), value in zip(shared, values, strict=True):
        item.assign(np.asarray(value))
    return WholeOptimizer(like, tuple(slots), tuple(shared))


def _alike(optimizer: Any, variables: Sequence[Any]) -> tuple[Any, list[tuple[int, int]]]:
    """An optimizer with the same settings and without state, and what each of its variables is for.

    That is the id of one of the variables (0: none of them), and a number among those for the same one.
    """
    like = type(optimizer).from_config(optimizer.get_config())
    of = {id(slot): id(variable) for variable, slot in held.build_optimizer(like, variables, set())}
    counts: dict[int, int] = {}
    references: list[tuple[int, int]] = []
    for item in like.variables:
        reference = of.get(id(item), 0)
        references.append((reference, counts.get(reference, 0)))
        counts[reference] = references[-1][1] + 1
    return like, references

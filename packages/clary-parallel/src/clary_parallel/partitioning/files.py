"""Plans as files (JSON): a plan that was made once is used again, in later runs and on other machines.

A file says of each operation what it is and in which partition it runs. Names may differ from run to run (Keras numbers
layers in the order in which a process makes them), so operations are known by their place, kind, inputs and weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clary_parallel.graph import Graph
from clary_parallel.partitioning.plan import Plan
from clary_parallel.partitioning.report import size

_VERSION = 1


class PlanFileError(ValueError):
    """A file that holds no plan, or the plan of another model or another number of partitions."""


def save_plan(plan: Plan, file: Path) -> None:
    """Write a plan; its folder is made if it is not there.

    Args:
        plan: The plan.
        file: Where to write it.
    """
    operations = [
        {
            "name": operation.name,
            "kind": operation.kind,
            "inputs": list(operation.inputs),
            "weight_bytes": operation.weight_bytes,
            "partition": None if stage < 0 else stage,
        }
        for operation, stage in zip(plan.graph.operations, plan.stage_of, strict=True)
    ]
    rows = ",\n".join(f"  {json.dumps(operation)}" for operation in operations)
    head = f'"version": {_VERSION}, "partitions": {len(plan.stages)}'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{{{head}, "operations": [\n{rows}\n]}}\n')


def pins_from_file(file: Path, graph: Graph, partitions: int) -> dict[str, int]:
    """The partition of every operation of a graph, as a file says it; for `make_plan` without `auto_partition`.

    Args:
        file: What `save_plan` wrote.
        graph: The operations of the model that is to be partitioned.
        partitions: How many partitions are wanted.

    Raises:
        PlanFileError: The file is missing, is no plan, or does not fit.
    """
    told = _read(file)
    again = "Make the plan anew (without load_partition), or load the file of this model."
    if told["partitions"] != partitions:
        raise PlanFileError(
            f"Partition file {file} is for {told['partitions']} partitions. Expected: {partitions}. {again}"
        )
    operations: list[dict[str, Any]] = told["operations"]
    for number, (there, here) in enumerate(zip(operations, graph.operations, strict=False)):
        mine = (here.kind, list(here.inputs), here.weight_bytes, here.replicated)
        if (there["kind"], there["inputs"], there["weight_bytes"], there["partition"] is None) != mine:
            raise PlanFileError(
                f"Partition file {file} does not fit the model: operation {number} is {there['name']!r} "
                f"({there['kind']}, {size(there['weight_bytes'])} of weights) in the file and {here.name!r} "
                f"({here.kind}, {size(here.weight_bytes)}) in the model, or they take other inputs. {again}"
            )
    if len(operations) != len(graph.operations):
        raise PlanFileError(
            f"Partition file {file} has {len(operations)} operations; the model has {len(graph.operations)}. {again}"
        )
    return {
        here.name: there["partition"]
        for there, here in zip(operations, graph.operations, strict=True)
        if not here.replicated
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text())
        for operation in told["operations"]:
            if not operation.keys() >= {"name", "kind", "inputs", "weight_bytes", "partition"}:
                raise KeyError("operations")
        fits = told["version"] == _VERSION and isinstance(told["partitions"], int)
    except OSError as error:
        raise PlanFileError(
            f"Partition file {file} cannot be read: {error.strerror}. Run once without load_partition to write it."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
        told = {}
    if not fits:
        raise PlanFileError(
            f"{file} is no partition file of version {_VERSION}, as a run without load_partition writes."
        )
    return told

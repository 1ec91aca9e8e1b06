"""`python -m clary_parallel plan model.py`: how a model would be partitioned and how long a step would take.

The file defines the model: a variable `model`, or a function of that name (or another, by --name) that returns it.
A saved `.keras` file does too.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np

from clary_parallel.partitioning import Plan, describe_plan, draw_plan, make_plan, pins_from_file, save_plan
from clary_parallel.partitioning.report import duration
from clary_parallel.schedule import Costs, draw_svg, draw_text, make_schedule, simulate


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _plan(options)
    except (ValueError, OSError, KeyError) as error:
        print(f"clary-parallel: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("clary-parallel", description="Plan the partition of a Keras model.")
    commands = parser.add_subparsers(required=True)
    plan = commands.add_parser("plan", help="print how a model would be partitioned")
    plan.add_argument("file", type=Path, help="a Python file that defines the model, or a saved .keras file")
    plan.add_argument("--name", default="model", help="the variable or function in the file (default: model)")
    plan.add_argument("--partitions", type=int, default=2)
    plan.add_argument("--microbatches", type=int, default=8)
    plan.add_argument("--microbatch-size", type=int, default=1, help="examples in a micro-batch (default: 1)")
    plan.add_argument("--schedule", default="interleaved")
    plan.add_argument("--virtual", type=int, default=1, help="stages a rank (default: 1)")
    plan.add_argument("--optimize", choices=("memory", "speed"), default="memory")
    plan.add_argument(
        "--contiguous",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="each stage is a run of operations, or may take any as long as tensors go on to later stages only "
        "(default: a run)",
    )
    plan.add_argument("--partition-file", type=Path, metavar="FILE", help="write the plan here, for later runs")
    plan.add_argument("--load-partition", action="store_true", help="read the plan from --partition-file instead")
    plan.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        help="measure the time of each operation, or estimate it (default: measure with --optimize speed)",
    )
    plan.add_argument("--svg", type=Path, help="write the coloured graph here")
    plan.add_argument("--chart", type=Path, help="write the chart of the schedule here, as SVG")
    return parser


def _plan(options: argparse.Namespace) -> int:
    if options.load_partition and options.partition_file is None:
        raise ValueError("--load-partition needs the file to load: --partition-file FILE.")
    schedule = make_schedule(options.schedule, options.partitions, options.microbatches, options.virtual)
    from clary_parallel.analyse import measure_operations, pins_of, trace_model, with_seconds

    traced = trace_model(_load(options.file, options.name), options.microbatch_size)
    measures = options.optimize == "speed" if options.measure is None else options.measure
    if measures:
        traced = with_seconds(traced, measure_operations(traced, options.microbatch_size))
    stages = options.partitions * options.virtual
    if options.load_partition:
        pins = pins_from_file(options.partition_file, traced.graph, stages)
        plan = make_plan(traced.graph, stages, optimize=options.optimize, pins=pins, auto_partition=False)
    else:
        pins = pins_of(traced)
        plan = make_plan(traced.graph, stages, optimize=options.optimize, pins=pins, contiguous=options.contiguous)
        if options.partition_file is not None:
            save_plan(plan, options.partition_file)
    print(describe_plan(plan))
    if measures:
        slowest = sorted(traced.graph.operations, key=lambda operation: -operation.seconds)[:5]
        listed = ", ".join(f"{operation.name} {duration(operation.seconds)}" for operation in slowest)
        print(f"Times are measured, forward and backward. The slowest operations: {listed}.")
    else:
        print("Times are estimates; --measure measures them.")
    prediction = simulate(schedule, costs_of(plan))
    print()
    print(draw_text(prediction))
    step, peak = prediction.step_time * 1e3, max(prediction.peak_bytes) / 2**20
    known = "Predicted" if measures else "Estimated"
    print(f"{known}: {step:.1f} ms a step on one core a rank, {peak:.0f} MiB on the fullest rank.")
    for path, drawing in ((options.svg, lambda: draw_plan(plan)), (options.chart, lambda: draw_svg(prediction))):
        if path is not None:
            path.write_text(drawing())
    return 0


def costs_of(plan: Plan) -> Costs:
    """What the simulator needs of a plan: a third of a stage's time is its forward, the rest its backward."""
    seconds = np.array([stage.seconds for stage in plan.stages])
    return Costs(
        forward=seconds / 3,
        backward=seconds * 2 / 3,
        weight=seconds / 3,
        activation_bytes=np.array([float(stage.activation_bytes) for stage in plan.stages]),
        weight_bytes=np.array([4.0 * stage.weight_bytes for stage in plan.stages]),
    )


def _load(file: Path, name: str) -> Any:
    if not file.exists():
        raise ValueError(f"There is no file {file}.")
    if file.suffix in (".keras", ".h5"):
        import keras  # pyright: ignore[reportMissingImports]

        return keras.saving.load_model(file)
    found = runpy.run_path(str(file), run_name="clary_parallel_plan")
    if name not in found:
        raise ValueError(f"{file} defines no {name!r}. Name the variable or function that holds the model with --name.")
    value = found[name]
    if callable(value) and not hasattr(value, "layers"):
        from clary_parallel.pipelining.held import describe_model

        return describe_model(value)
    return value


if __name__ == "__main__":
    sys.exit(main())

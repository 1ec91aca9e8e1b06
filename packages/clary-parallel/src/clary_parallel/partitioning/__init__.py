"""Cuts a graph of operations into stages and places the stages on ranks. Needs NumPy only.

`pipelining` and the command line call it; it calls `graph`.
"""

from clary_parallel.partitioning.files import PlanFileError, pins_from_file, save_plan
from clary_parallel.partitioning.picture import draw_plan
from clary_parallel.partitioning.pins import PinError
from clary_parallel.partitioning.place import place
from clary_parallel.partitioning.plan import Plan, Stage, make_plan, plan_from_assignment
from clary_parallel.partitioning.report import describe_plan

__all__ = [
    "PinError",
    "Plan",
    "PlanFileError",
    "Stage",
    "describe_plan",
    "draw_plan",
    "make_plan",
    "pins_from_file",
    "place",
    "plan_from_assignment",
    "save_plan",
]

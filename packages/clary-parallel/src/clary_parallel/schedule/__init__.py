"""Pipeline schedules as data: made by pure functions, checked, simulated, drawn, and executed as they are.

Needs NumPy only. `pipelining` and the command line call it; it calls `transport` and nothing else of the package.
"""

from clary_parallel.schedule.actions import Action, Schedule, Work
from clary_parallel.schedule.chart import draw_svg, draw_text
from clary_parallel.schedule.check import ScheduleError, check
from clary_parallel.schedule.orders import (
    SCHEDULES,
    forward_only,
    interleaved,
    interleaved_virtual,
    make_schedule,
    simple,
    zero_bubble,
)
from clary_parallel.schedule.simulate import Costs, Prediction, simulate

__all__ = [
    "SCHEDULES",
    "Action",
    "Costs",
    "Prediction",
    "Schedule",
    "ScheduleError",
    "Work",
    "check",
    "draw_svg",
    "draw_text",
    "forward_only",
    "interleaved",
    "interleaved_virtual",
    "make_schedule",
    "simple",
    "simulate",
    "zero_bubble",
]

"""Data parallel and model parallel training for TensorFlow and Keras, usable without Clary's server.

Imports nothing of Clary. TensorFlow and MPI are imported by the parts that need them, when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clary_parallel.analyse import partition as partition
    from clary_parallel.data.compression import Compression as Compression
    from clary_parallel.data.gradients import DistributedGradientTape as DistributedGradientTape
    from clary_parallel.data.keras_model import data_parallel as data_parallel
    from clary_parallel.data.optimizer import DistributedOptimizer as DistributedOptimizer
    from clary_parallel.data.variables import broadcast_variables as broadcast_variables
    from clary_parallel.data.world import init as init
    from clary_parallel.data.world import local_rank as local_rank
    from clary_parallel.data.world import local_size as local_size
    from clary_parallel.data.world import rank as rank
    from clary_parallel.data.world import size as size
    from clary_parallel.pipelining import pipeline as pipeline

# Where each public name lives; its module is imported when the name is first used.
_PLACES = {
    "Compression": "clary_parallel.data.compression",
    "DistributedGradientTape": "clary_parallel.data.gradients",
    "DistributedOptimizer": "clary_parallel.data.optimizer",
    "broadcast_variables": "clary_parallel.data.variables",
    "data_parallel": "clary_parallel.data.keras_model",
    "init": "clary_parallel.data.world",
    "partition": "clary_parallel.analyse",
    "pipeline": "clary_parallel.pipelining",
    "local_rank": "clary_parallel.data.world",
    "local_size": "clary_parallel.data.world",
    "rank": "clary_parallel.data.world",
    "size": "clary_parallel.data.world",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)

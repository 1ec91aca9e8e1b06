"""Horovod's interface, carried out by clary_parallel."""

from __future__ import annotations

from typing import Any

__version__ = "0.28.1+clary"


def __getattr__(name: str) -> Any:
    if name in ("torch", "mxnet", "spark", "ray", "run"):
        from clary_parallel.errors import NotOffered

        alternative = "mpirun -n 2 python train.py" if name == "run" else "horovod.tensorflow or horovod.keras"
        raise NotOffered(f"horovod.{name} is not offered by Clary: use {alternative}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

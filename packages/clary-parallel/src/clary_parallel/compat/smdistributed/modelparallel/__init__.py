"""SageMaker's model parallel library, carried out by clary_parallel."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "torch":
        from clary_parallel.errors import NotOffered

        raise NotOffered(
            "smdistributed.modelparallel.torch is not offered by Clary: use smdistributed.modelparallel.tensorflow."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

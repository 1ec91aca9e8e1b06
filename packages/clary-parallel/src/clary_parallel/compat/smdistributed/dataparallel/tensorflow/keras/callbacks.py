"""smdistributed.dataparallel.tensorflow.keras.callbacks, carried out by clary_parallel."""

from clary_parallel.surfaces.horovod_callbacks import (
    BroadcastGlobalVariablesCallback,
    LearningRateScheduleCallback,
    LearningRateWarmupCallback,
    MetricAverageCallback,
    __getattr__,
)

__all__ = [
    "BroadcastGlobalVariablesCallback",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
    "__getattr__",
]

"""horovod.tensorflow.keras.elastic (state that is synchronised and committed), carried out by clary_parallel."""

from clary_parallel.surfaces.horovod_elastic import (
    CommitStateCallback,
    KerasState,
    ObjectState,
    TensorFlowKerasState,
    TensorFlowState,
    UpdateBatchStateCallback,
    UpdateEpochStateCallback,
    run,
)

__all__ = [
    "CommitStateCallback",
    "KerasState",
    "ObjectState",
    "TensorFlowKerasState",
    "TensorFlowState",
    "UpdateBatchStateCallback",
    "UpdateEpochStateCallback",
    "run",
]

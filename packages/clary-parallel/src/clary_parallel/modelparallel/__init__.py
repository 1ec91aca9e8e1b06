"""SageMaker's way of model parallelism: a user's step function over a pipeline of ranks.

Called by `surfaces.smmodelparallel`; calls `analyse`, `partitioning`, `pipelining`, `schedule`, `transport` and `data`.

`parameters` and `job` say how the job is divided; `communication` is its ranks talking. `tracing` and `cutting` trace a
user's step function and cut it around the model's call; `parts` are the model's stages; `running` runs them for one
batch; `step` is the decorator. `checkpoints` writes and reads whole checkpoints. `keras_two` holds what scripts for
Keras 2 call.
"""

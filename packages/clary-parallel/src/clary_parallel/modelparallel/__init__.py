"""SageMaker's way of model parallelism: a user's step function over a pipeline of ranks.

Called by `surfaces.smmodelparallel`; calls `analyse`, `partitioning`, `pipelining`, `schedule`, `transport` and `data`.

`parameters` and `job` say how the job is divided; `communication` is its ranks talking. `tracing` and `cutting` trace a
user's step function and cut it around the model's call; `calls` are ways of calling it, `parts` its stages, `copies`
what a step function reads of other ranks' variables; `running` runs the stages for one batch; `step` is the decorator.
`checkpoints` writes and reads whole checkpoints. `keras_two` holds what scripts for Keras 2 call.
"""

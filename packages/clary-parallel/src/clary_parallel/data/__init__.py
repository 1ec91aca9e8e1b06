"""Data parallel training: every rank holds the whole model and a share of each batch; gradients are averaged.

Called by user programs and the import-compatible modules; calls the transport. Modules that need TensorFlow or Keras
(`graph`, `gradients`, `optimizer`, `keras_model`, ...) import it when they are imported; `agreement`, `fusion` and
`shards` need numpy only.
"""

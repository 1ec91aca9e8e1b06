"""Trains a partitioned Keras model over a pipeline of ranks: analysis, plan, schedule and transport meet here.

Needs TensorFlow and Keras 3. Called by users, through `clary_parallel.pipeline`.
"""

from clary_parallel.pipelining.build import pipeline
from clary_parallel.pipelining.engine import NotFiniteError
from clary_parallel.pipelining.model import PipelineModel

__all__ = ["NotFiniteError", "PipelineModel", "pipeline"]

"""Trains a partitioned Keras model over a pipeline of ranks: analysis, plan, schedule and transport meet here.

Needs TensorFlow and Keras 3. Called by users, through `clary_parallel.pipeline`.
"""

from clary_parallel.pipeline.build import pipeline
from clary_parallel.pipeline.engine import NotFiniteError
from clary_parallel.pipeline.model import PipelineModel

__all__ = ["NotFiniteError", "PipelineModel", "pipeline"]

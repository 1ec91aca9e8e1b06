"""A model as a graph of operations: bytes of weights, bytes of outputs, time. Needs NumPy only.

`analyse` makes graphs from Keras models; `partitioning` cuts them into stages.
"""

from clary_parallel.graph.graph import Graph, Operation
from clary_parallel.graph.order import Line, lines

__all__ = ["Graph", "Line", "Operation", "lines"]

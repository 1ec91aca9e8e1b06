"""Horovod's calls for TensorFlow 1's sessions (`tf.compat.v1`): variables of a graph broadcast before training."""

from __future__ import annotations

from typing import Any

from clary_parallel.data.variables import broadcast_variables
from clary_parallel.frameworks import tf

_Hook: Any = tf.compat.v1.train.SessionRunHook


def broadcast_global_variables(root_rank: int) -> Any:
    """The operation that gives every rank the root's values of all variables of the default graph."""
    if tf.executing_eagerly():
        raise RuntimeError(
            "broadcast_global_variables is for the sessions of TensorFlow 1. In eager code, use "
            "broadcast_variables(model.variables, root_rank=0)."
        )
    return broadcast_variables(tf.compat.v1.global_variables(), root_rank)


class BroadcastGlobalVariablesHook(_Hook):
    """Broadcast all variables once a session is made, for `MonitoredTrainingSession(hooks=...)`."""

    def __init__(self, root_rank: int, device: str = "") -> None:
        super().__init__()
        self.root_rank = root_rank
        self.bcast_op: Any = None

    def begin(self) -> None:
        # The graph may be a new one: an Estimator makes one for each call of train.
        if self.bcast_op is None or self.bcast_op.graph is not tf.compat.v1.get_default_graph():
            self.bcast_op = broadcast_global_variables(self.root_rank)

    def after_create_session(self, session: Any, coord: Any) -> None:
        session.run(self.bcast_op)

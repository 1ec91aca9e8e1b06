"""Copies of variables that a step function reads outside the model's call, though another rank holds them."""

from __future__ import annotations

from typing import Any

from clary_parallel.frameworks import tf
from clary_parallel.pipelining import held

_copies: dict[int, tuple[Any, Any]] = {}
"""The variable, and this rank's copy of it, by the variable's id."""


def copy_of(variable: Any) -> Any:
    """A TensorFlow variable for the value of one that another rank holds; a step brings it up to date."""
    if id(variable) not in _copies:
        with tf.init_scope():
            zeros = tf.zeros(variable.shape, variable.dtype)
            _copies[id(variable)] = variable, tf.Variable(zeros, trainable=variable.trainable)
    return _copies[id(variable)][1]


def handle_of(variable: Any) -> Any:
    """The handle of a variable's value on this rank, or of its copy here; None if there is neither."""
    if not held.is_absent(variable):
        return variable.value.handle
    copy = _copies.get(id(variable))
    return None if copy is None else copy[1].handle

"""TensorFlow functions in a model's `call` (tf.nn.relu, tf.reshape, ...) as layers of the traced graph.

Keras 3 refuses symbolic tensors in TensorFlow's functions. While a model is traced here, such a call becomes a layer
that makes the call when the model runs, so that scripts which were written for Keras 2 can be parted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from clary_parallel.frameworks import keras, tf

_Layer: Any = keras.layers.Layer
_Dispatcher: Any = tf.__internal__.dispatch.GlobalOpDispatcher
_open: list[int] = []


class TensorFlowCall(_Layer):
    """One call of a TensorFlow function with symbolic tensors among its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name=None, dtype=None, autocast=False)
        self._function = function

    def call(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return self._function(*arguments, **options)

    def compute_output_spec(self, *arguments: Any, **options: Any) -> Any:
        """Trace the function once for the shapes of its results."""
        return keras.src.backend.compute_output_spec(self._function, *arguments, **options)


class _Symbolic(_Dispatcher):
    def handle(self, op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Called by TensorFlow where a function cannot take its arguments."""
        given = keras.tree.flatten((args, kwargs))
        if not _open or not any(isinstance(item, keras.KerasTensor) for item in given):
            return self.NOT_SUPPORTED
        if any(isinstance(item, tf.Variable | keras.Variable) for item in given):
            raise ValueError(
                f"tf.{getattr(op, '__name__', op)} takes a variable here; put the variable and the call into a "
                "keras.layers.Layer, so that both go into one partition"
            )
        return TensorFlowCall(op)(*args, **kwargs)


_dispatcher: list[Any] = []


@contextlib.contextmanager
def as_layers() -> Generator[None]:
    """Make layers of TensorFlow functions that are called with symbolic tensors inside the block."""
    if not _dispatcher:
        _dispatcher.append(_Symbolic())
        _dispatcher[0].register()
    _open.append(1)
    try:
        yield
    finally:
        _open.pop()

"""TensorFlow functions in a model's `call` (tf.nn.relu, tf.reshape, ...) as layers of the traced graph.

Keras 3 refuses symbolic tensors in TensorFlow's functions. While a model is traced here, such a call becomes a layer
that makes the call when the model runs, so that scripts which were written for Keras 2 can be parted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from clary_parallel.frameworks import keras, tf

_Layer: Any = keras.layers.Layer
_Dispatcher: Any = tf.__internal__.dispatch.GlobalOpDispatcher
_open: list[int] = []


class TensorFlowCall(_Layer):
    """One call of a TensorFlow function; called with the symbolic tensors among its arguments.

    Args:
        function: From these tensors to the function's result.
    """

    def __init__(self, function: Callable[[Sequence[Any]], Any]) -> None:
        super().__init__(autocast=False)
        self._function = function

    def call(self, tensors: Sequence[Any]) -> Any:
        """Call the function."""
        return self._function(tensors)

    def compute_output_spec(self, tensors: Sequence[Any]) -> Any:
        """Trace the function once for the shapes of its results."""
        return keras.src.backend.compute_output_spec(self._function, tensors)


class _Symbolic(_Dispatcher):
    def handle(self, op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Called by TensorFlow where a function cannot take its arguments."""
        given = keras.tree.flatten((args, kwargs))
        symbolic = [item for item in given if isinstance(item, keras.KerasTensor)]
        if not _open or not symbolic:
            return self.NOT_SUPPORTED
        if any(isinstance(item, tf.Variable | keras.Variable) for item in given):
            raise ValueError(
                f"tf.{getattr(op, '__name__', op)} takes a variable here; put the variable and the call into a "
                "keras.layers.Layer, so that both go into one partition"
            )

        def function(tensors: Sequence[Any]) -> Any:
            left = iter(tensors)
            filled = [next(left) if isinstance(item, keras.KerasTensor) else item for item in given]
            arguments, options = keras.tree.pack_sequence_as((args, kwargs), filled)
            return op(*arguments, **options)

        return TensorFlowCall(function)(symbolic)


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

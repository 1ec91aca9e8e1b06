"""What scripts for Horovod do that Keras 3 refuses: made to work when one of the import-compatible modules is imported.

- `optimizer.variables()`: a method in Keras 2, a list in Keras 3.
- `metric.reset_states()`: `reset_state` in Keras 3.
- `compile(experimental_run_tf_function=False)`: an argument that Keras 3 has dropped.
- XLA, which Keras 3 chooses by itself and which cannot hold the exchange between ranks.
- Loss scaling around a distributed optimizer, which Keras adds by itself for mixed_float16: gradients are averaged
  first, so that all ranks agree on whether a step overflows.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from clary_parallel.data.optimizer import lift
from clary_parallel.frameworks import tf


def accept_older_scripts() -> None:
    """Change Keras' classes, once."""
    if hasattr(tf.keras.Model.compile, "clary"):
        return
    # On the class that defines it: Keras takes a class that has a compile of its own for one that it cannot save.
    owner = _owner(tf.keras.Model, "compile")
    owner.compile = _lenient(owner.compile)
    if not hasattr(tf.keras.metrics.Metric, "reset_states"):
        tf.keras.metrics.Metric.reset_states = _reset_states
    optimizers = _owner(tf.keras.optimizers.Optimizer, "variables")
    if isinstance(vars(optimizers)["variables"], property):
        listed: Any = vars(optimizers)["variables"].fget
        optimizers.variables = property(lambda optimizer: _CallableList(listed(optimizer)), doc=listed.__doc__)


class _CallableList(list):  # pyright: ignore[reportMissingTypeArgument] (subscripts need Python 3.9)
    """A list that returns itself when it is called."""

    def __call__(self) -> _CallableList:
        return self


def _lenient(compile_model: Callable[..., Any]) -> Callable[..., Any]:
    takes_xla = "jit_compile" in inspect.signature(compile_model).parameters

    @functools.wraps(compile_model)
    def compile_(model: Any, optimizer: Any = "rmsprop", *arguments: Any, **named: Any) -> Any:
        named.pop("experimental_run_tf_function", None)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if getattr(inner, "_clary_reducer", None) is not None and takes_xla and len(arguments) < 6:
            named.setdefault("jit_compile", False)
        result = compile_model(model, optimizer, *arguments, **named)
        lift(model.optimizer)
        return result

    compile_.clary = True  # type: ignore[attr-defined]
    return compile_


def _reset_states(metric: Any) -> None:
    metric.reset_state()


def _owner(kind: Any, name: str) -> Any:
    return next(each for each in kind.__mro__ if name in vars(each))

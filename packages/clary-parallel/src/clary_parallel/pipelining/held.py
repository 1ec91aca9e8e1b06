"""Which variables a rank holds: its stages' weights and their optimizer state. All others are known without values.

A Keras variable that is made inside a stateless scope knows its shape and its initializer, and has no value until it is
asked for one. So a model whose building function runs in such a scope is described without any weights, and each rank
then makes those of its own stages; the values are the ones that the model would have in one process, because Keras's
initializers get their seeds when they are made.

A model whose weights are there already is divided too, by letting go of the values that other ranks hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import keras  # pyright: ignore[reportMissingImports]
import tensorflow as tf
from keras.src.backend.common import global_state  # pyright: ignore[reportMissingImports]
from keras.src.optimizers.base_optimizer import BaseOptimizer  # pyright: ignore[reportMissingImports]

_WAITING = "uninitialized_variables"
"""Keras's list of variables without values; the end of any stateless scope gives them all one."""

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 8 << 20

_absent_kinds: dict[Any, Any] = {}
_optimizer_slots: WeakKeyDictionary[Any, list[tuple[Any, Any]]] = WeakKeyDictionary()


class AbsentError(RuntimeError):
    """The value of a weight was asked for on a rank that does not hold it."""


class Fetching:
    """Where values of absent variables come from while somebody gathers them; None most of the time."""

    fetch: Callable[[Any], Any] | None = None


@contextlib.contextmanager
def fetching(fetch: Callable[[Any], Any] | None) -> Generator[None]:
    """Inside, values of absent variables come from a function; from nowhere if it is None."""
    before, Fetching.fetch = Fetching.fetch, fetch
    try:
        yield
    finally:
        Fetching.fetch = before


@contextlib.contextmanager
def described() -> Generator[None]:
    """Keras variables that are made inside have no values."""
    before = global_state.get_global_attribute(_WAITING)
    global_state.set_global_attribute(_WAITING, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_WAITING, before)


def describe_model(build: Callable[[], Any]) -> Any:
    """Call a function that builds a model, without making the model's weights.

    Raises:
        ValueError: The function needs values of weights, or returns no model.
    """
    try:
        with described():
            model = build()
    except ValueError as error:
        if "stateless scope" not in str(error):
            raise
        raise ValueError(
            "The function that builds the model sets or reads weights, which are not made yet: each rank makes those "
            "of its own stages later. Load weights with load_weights() of the pipeline instead, or give the model "
            "itself (every rank then holds all weights)."
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"A pipeline takes a Keras model or a function that returns one. Received: {model!r}.")
    made = [variable.path for variable in model.weights if not has_no_value(variable)]
    if made:
        raise ValueError(
            f"The function that builds the model returned one whose weights are made already ({made[0]!r} and others): "
            "build all layers inside the function, without keras.utils.clear_session() in it, or give the model itself "
            "(every rank then holds all weights)."
        )
    return model


def hold(variables: Sequence[Any], own: set[int]) -> None:
    """Give values to the variables of a described model that this rank holds, and make the others absent.

    Args:
        variables: All of the model's.
        own: The ids of those that are held.
    """
    for variable in variables:
        if not has_no_value(variable):
            continue
        if id(variable) in own:
            variable._deferred_initialize()
        else:
            make_absent(variable)


def has_no_value(variable: Any) -> bool:
    """Whether a variable is only described."""
    return variable._value is None


def make_value(variable: Any) -> None:
    """Give a described variable its value, wherever this is called.

    A function that is being traced counts variables that its thread makes as its own, inside `tf.init_scope` too. It is
    then traced a second time, where it must make none.
    """
    if not tf.compat.v1.get_default_graph().building_function:
        variable._deferred_initialize()
        return
    with ThreadPoolExecutor(1) as other_thread:
        other_thread.submit(variable._deferred_initialize).result()


def make_absent(variable: Any) -> None:
    """Let a described variable ignore assignments, and refuse its value but to who gathers values."""
    kind = type(variable)
    if kind not in _absent_kinds:
        _absent_kinds[kind] = type(f"Absent{kind.__name__}", (_Absent, kind), {})
    variable.__class__ = _absent_kinds[kind]


def release(variable: Any) -> None:
    """Let go of a value that another rank holds; its memory is free once nothing else refers to it."""
    if is_absent(variable):
        return
    if not has_no_value(variable):
        variable._initializer, variable._value = _zeros, None
    make_absent(variable)


def give_back() -> None:
    """Let the C library return freed memory to the system, which it would keep for later; where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_large_apart() -> None:
    """Let the C library (glibc) give each large tensor pages of its own, which are free again with the tensor.

    By itself it soon takes tensors up to 32 MiB from its heaps. Of a model with weights of that size, whose gradients
    and updates come and go, the heaps then keep holes that take as much memory as half of all that is in use. A
    setting of the user's own stands.

    With oneDNN, TensorFlow takes tensors from regions of its own, each twice as large as the one before, unless it is
    told to leave memory to the C library: before its first tensor.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def ordinary(kind: Any) -> Any:
    """Keras's own class of variables beneath one of ours, whose variables are absent or wait."""
    return kind.__bases__[1]


def give(variable: Any, value: Any) -> None:
    """Let a variable that is absent have a value: a TensorFlow variable."""
    if is_absent(variable):
        variable.__class__ = ordinary(type(variable))
    variable._value = value


def is_absent(variable: Any) -> bool:
    """Whether another rank holds a variable."""
    return isinstance(variable, _Absent)


def build_optimizer(optimizer: Any, variables: Sequence[Any], own: set[int]) -> list[tuple[Any, Any]]:
    """Build an optimizer for all variables of a model, with state for those only that this rank holds.

    Args:
        optimizer: A Keras optimizer that was not built, or that was built here.
        variables: The model's trainable variables.
        own: The ids of those that this rank holds.

    Returns:
        Its variables that belong to one of the model's: pairs of the model's and the optimizer's.

    Raises:
        ValueError: It was built before, for another model or with all its state.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer.built:
        if optimizer not in _optimizer_slots:
            raise ValueError(
                f"The optimizer {optimizer.name!r} was used before. Give the pipeline a fresh one, and load its state "
                "with load_weights() of a checkpoint."
            )
        return _optimizer_slots[optimizer]
    pairs: list[tuple[Any, Any]] = []
    key, plain = inner._var_key, inner.add_variable
    noted = _Noted(variables)

    def known_by(variable: Any) -> Any:
        return f"absent {id(variable)}" if is_absent(variable) else key(variable)

    # Keras knows variables by their values' names, and an absent one has no value.
    inner._var_key = optimizer._var_key = known_by

    def add(reference_variable: Any, make: Callable[[], Any]) -> Any:
        current, noted.current = noted.current, None
        with described():
            slot = make()
        noted.current = current
        hold([slot], {id(slot)} if id(reference_variable) in own else set())
        pairs.append((reference_variable, slot))
        return slot

    def add_from_reference(reference_variable: Any, *arguments: Any, **options: Any) -> Any:
        plainly: Any = BaseOptimizer.add_variable_from_reference
        return add(reference_variable, partial(plainly, inner, reference_variable, *arguments, **options))

    def add_variable(*arguments: Any, **options: Any) -> Any:
        # Adafactor's state has other shapes than its variables, and is made while these are gone through.
        if noted.current is None:
            return plain(*arguments, **options)
        return add(noted.current, partial(plain, *arguments, **options))

    inner.add_variable_from_reference, inner.add_variable = add_from_reference, add_variable
    try:
        # ScheduleFreeAdamW copies weights into its state: those of other ranks into what is thrown away.
        with keras.name_scope(optimizer.name, caller=optimizer), fetching(_some_variable):
            optimizer.build(noted)
    finally:
        del inner.add_variable_from_reference, inner.add_variable
    if inner.use_ema:
        _average_own_only(inner, own)
    _optimizer_slots[optimizer] = pairs
    return pairs


def _average_own_only(optimizer: Any, own: set[int]) -> None:
    """Moving averages of weights: Keras pairs all variables with all averages; here each rank has some."""

    def update(variables: Any) -> None:
        kept = optimizer.ema_momentum * tf.cast(optimizer.iterations != 0, tf.float32)
        for variable in variables:
            average = optimizer._model_variables_moving_average[optimizer._get_variable_index(variable)]
            share = tf.cast(kept, average.dtype)
            average.assign(share * average.value + (1.0 - share) * tf.convert_to_tensor(variable))

    def overwrite(_: Any) -> None:
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
            if id(variable) in own:
                variable.assign(average.value)

    optimizer._update_model_variables_moving_average = update
    optimizer._overwrite_model_variables_with_average_value = overwrite


class _Noted(list[Any]):
    """Variables of which it is known, while somebody goes through them, which one it is."""

    current: Any = None

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.current = item
            yield item
        self.current = None


def _some_variable(variable: Any) -> Any:
    return tf.Variable(tf.zeros(variable._shape, variable._dtype))


def _zeros(shape: Any, dtype: Any) -> Any:
    return tf.zeros(shape, dtype)


class _Absent:
    """What an absent variable does otherwise than Keras's."""

    _initializer: Any
    _shape: Any
    _dtype: Any
    path: str

    @property
    def value(self) -> Any:
        """The value as its owner has it, while values are gathered."""
        if Fetching.fetch is not None:
            return Fetching.fetch(self)
        if not tf.executing_eagerly() or global_state.get_global_attribute("stateless_scope") is not None:
            # Shapes are worked out: any value does.
            return self._initializer(self._shape, dtype=self._dtype)
        raise AbsentError(
            f"This rank does not hold {self.path!r}: it belongs to another rank's stage. Save the model, or ask it for "
            "get_weights(), on every rank."
        )

    def _direct_assign(self, value: Any) -> None:
        """Nothing: its owner, which runs the same program, assigns it."""

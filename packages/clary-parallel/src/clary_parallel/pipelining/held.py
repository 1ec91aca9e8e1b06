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
from collections.abc import Callable, Generator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras  # pyright: ignore[reportMissingImports]
import tensorflow as tf
from keras.src.backend.common import global_state  # pyright: ignore[reportMissingImports]
from keras.src.optimizers.base_optimizer import BaseOptimizer  # pyright: ignore[reportMissingImports]

_WAITING = "uninitialized_variables"
"""Keras's list of variables without values; the end of any stateless scope gives them all one."""

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


@contextlib.contextmanager
def present(valued: Sequence[tuple[Any, Any]]) -> Generator[None]:
    """Absent variables have values inside, and are absent again afterwards.

    Args:
        valued: Pairs of an absent variable and its value.
    """
    for variable, value in valued:
        variable.__class__ = type(variable).__bases__[1]
        with tf.init_scope():
            variable._initialize(value)
    try:
        yield
    finally:
        for variable, _ in valued:
            release(variable)


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
    key = inner._var_key

    def known_by(variable: Any) -> Any:
        return f"absent {id(variable)}" if is_absent(variable) else key(variable)

    # Keras knows variables by their values' names, and an absent one has no value.
    inner._var_key = optimizer._var_key = known_by

    def add(reference_variable: Any, *arguments: Any, **options: Any) -> Any:
        with described():
            slot = BaseOptimizer.add_variable_from_reference(inner, reference_variable, *arguments, **options)
        hold([slot], {id(slot)} if id(reference_variable) in own else set())
        pairs.append((reference_variable, slot))
        return slot

    inner.add_variable_from_reference = add
    try:
        with keras.name_scope(optimizer.name, caller=optimizer):
            optimizer.build(list(variables))
    finally:
        del inner.add_variable_from_reference
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

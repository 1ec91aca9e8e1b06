"""Layers whose weights wait: a weight gets its value when it is first asked for one.

After `smp.init` layers are made so. A model that exists before its first step (functional, Sequential, or with layers
that are built) then takes no memory until it is parted, and afterwards that of this rank's partition. Values are those
that the weights would have had at once, because Keras's initializers get their seeds when they are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras.src.backend.common import global_state  # pyright: ignore[reportMissingImports]

from clary_parallel.frameworks import keras
from clary_parallel.pipelining import held

_kinds: dict[Any, Any] = {}
_installed: list[bool] = []


def install() -> None:
    """Let layers that are made from now on wait with their weights; once a process."""
    if _installed:
        return
    _installed.append(True)
    layer: Any = keras.layers.Layer
    plain: Callable[..., Any] = layer.add_weight

    @functools.wraps(plain)
    def add_weight(self: Any, *arguments: Any, **options: Any) -> Any:
        named = {**dict(zip(("shape", "initializer"), arguments, strict=False)), **options}
        if _in_stateless_scope() or not _can_wait(named.get("initializer")):
            return plain(self, *arguments, **options)
        with held.described():
            variable = plain(self, *arguments, **options)
        if held.has_no_value(variable):
            _let_wait(variable)
        return variable

    layer.add_weight = add_weight


def _can_wait(initializer: Any) -> bool:
    """Whether an initializer says how to make a value, and is none."""
    return initializer is None or isinstance(initializer, str | dict) or callable(initializer)


def _let_wait(variable: Any) -> None:
    kind = type(variable)
    if kind not in _kinds:
        _kinds[kind] = type(f"Waiting{kind.__name__}", (_Waiting, kind), {})
    variable.__class__ = _kinds[kind]


def _in_stateless_scope() -> bool:
    return global_state.get_global_attribute("stateless_scope") is not None


class _Waiting:
    """What a variable that waits does otherwise than Keras's. Once it has a value it is an ordinary one."""

    _value: Any

    @property
    def value(self) -> Any:
        """The value, which is made if somebody needs it; where only shapes are worked out, any."""
        if self._value is None and not _in_stateless_scope():
            held.make_value(self)
            return self.value  # It is an ordinary variable now.
        return super().value  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

    def _deferred_initialize(self) -> None:
        self._end()
        self._deferred_initialize()

    def _direct_assign(self, value: Any) -> None:
        self._end()
        if self._value is None:
            self._deferred_initialize()
        self._direct_assign(value)

    def _end(self) -> None:
        self.__class__ = held.ordinary(type(self))

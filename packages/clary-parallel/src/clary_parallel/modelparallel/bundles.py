"""Checkpoint files in TensorFlow's format, of what no single rank holds: written and read variable by variable.

TensorFlow writes the structure of what is saved and the values that are there; variables of other ranks stand in it
without values, which takes no memory. Their values are written to further files of the same checkpoint, a few at a
time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import (  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    trackable_object_graph_pb2,  # pyright: ignore[reportUnknownVariableType]
)
from tensorflow.python.ops.resource_variable_ops import (  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    UninitializedVariable,  # pyright: ignore[reportUnknownVariableType]
)

from clary_parallel.frameworks import tf
from clary_parallel.pipelining import held

Graph = Any
"""TensorFlow's description of saved objects: nodes with named children, and with the keys of their values."""

_FILE_BYTES = 32 << 20
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_UNINITIALIZED: Any = UninitializedVariable


class MismatchError(ValueError):
    """A checkpoint does not hold what is to be restored."""


@contextlib.contextmanager
def hollow(variables: Sequence[Any]) -> Generator[None]:
    """Keras variables are TensorFlow variables without values inside, whose names end in their numbers.

    Args:
        variables: Absent ones, and ones with a value, which they have again afterwards.
    """
    before = [(variable, type(variable), variable._value) for variable in variables]
    for number, (variable, kind, _) in enumerate(before):
        if held.is_absent(variable):
            variable.__class__ = held.ordinary(kind)
        name = re.sub(r"[^A-Za-z0-9_./-]", "_", variable.path).lstrip("_/-") or "variable"
        variable._value = _UNINITIALIZED(
            trainable=variable.trainable, name=f"{name}--{number}", shape=variable.shape, dtype=variable.dtype
        )
    try:
        yield
    finally:
        for variable, kind, value in before:
            variable._value = value
            variable.__class__ = kind


def write(checkpoint: Any, absent: Sequence[Any], prefix: str) -> None:
    """Write a checkpoint.

    Args:
        checkpoint: A `tf.train.Checkpoint`.
        absent: Its variables that other ranks hold; `value` of each must give it while this runs.
        prefix: How the checkpoint's files begin.
    """
    with tempfile.TemporaryDirectory(dir=Path(prefix).parent, prefix=".writing-") as folder:
        with hollow(absent):
            part = checkpoint.write(f"{folder}/part")
        _complete(part, absent, prefix)


def complete_saved_model(path: Path, absent: Sequence[Any]) -> None:
    """Write the values that variables did not have when a SavedModel was written, see `hollow`."""
    variables = path / "variables"
    with tempfile.TemporaryDirectory(dir=path, prefix=".writing-") as folder:
        for file in variables.glob("variables.*"):
            file.replace(Path(folder) / file.name)
        _complete(f"{folder}/variables", absent, str(variables / "variables"))


def note_checkpoints(folder: Path, prefixes: Sequence[str]) -> None:
    """Write the file by which `tf.train.latest_checkpoint` finds a folder's checkpoints, the newest last."""
    names = [json.dumps(os.path.relpath(prefix, folder)) for prefix in prefixes]
    lines = [f"model_checkpoint_path: {names[-1]}", *(f"all_model_checkpoint_paths: {name}" for name in names)]
    new = folder / ".checkpoint"
    new.write_text("".join(f"{line}\n" for line in lines))
    new.replace(folder / "checkpoint")


def remove(prefix: str) -> None:
    """Remove a checkpoint's files."""
    for file in Path(prefix).parent.glob(f"{glob.escape(Path(prefix).name)}.*"):
        file.unlink()


def keys_in(prefix: str, children: Mapping[str, Any], variables: Sequence[Any]) -> list[str]:
    """For each variable of some objects the key under which a checkpoint holds it.

    Raises:
        MismatchError: It does not hold one, or with another shape.
    """
    with tempfile.TemporaryDirectory() as folder, hollow(variables):
        part = tf.train.Checkpoint(**children).write(f"{folder}/part")
        here = _graph_of(part)
    reader = tf.train.load_checkpoint(prefix)
    there, shapes = _graph_of(prefix), reader.get_variable_to_shape_map()
    same, waiting = {0: 0}, [0]
    keys: dict[int, str] = {}
    while waiting:
        number = waiting.pop(0)
        mine, its = here.nodes[number], there.nodes[same[number]]
        its_keys = {attribute.name: attribute.checkpoint_key for attribute in its.attributes}
        for attribute in mine.attributes:
            place = _number(attribute.full_name)
            if place is not None and attribute.name in its_keys:
                keys[place] = its_keys[attribute.name]
        its_children = {child.local_name: child.node_id for child in its.children}
        for child in mine.children:
            if child.local_name in its_children and child.node_id not in same:
                same[child.node_id] = its_children[child.local_name]
                waiting.append(child.node_id)
    for number, variable in enumerate(variables):
        if shapes.get(keys.get(number)) != list(variable.shape):
            found = f"one of shape {shapes[keys[number]]}" if keys.get(number) in shapes else "none"
            raise MismatchError(f"Variable {variable.path} has shape {list(variable.shape)}, and it holds {found}.")
    return [keys[number] for number in range(len(variables))]


def reader_of(prefix: str) -> Callable[[str], Any]:
    """Reads the value of a key, as an array."""
    return tf.train.load_checkpoint(prefix).get_tensor


def _complete(part: str, absent: Sequence[Any], prefix: str) -> None:
    """Make a checkpoint of one that lacks the values of some variables, and of these values."""
    missing = sorted(
        (number, attribute.checkpoint_key)
        for node in _graph_of(part).nodes
        for attribute in node.attributes
        if (number := _number(attribute.full_name)) is not None
    )
    parts = [part]
    names: list[str] = []
    values: list[Any] = []

    def write_file() -> None:
        if names:
            parts.append(f"{part}-{len(parts)}")
            tf.raw_ops.SaveV2(
                prefix=parts[-1], tensor_names=list(names), shape_and_slices=[""] * len(names), tensors=list(values)
            )
            names.clear()
            values.clear()

    for number, key in missing:
        size = tf.as_dtype(absent[number].dtype).size * absent[number].shape.num_elements()
        if values and sum(value.dtype.size * value.shape.num_elements() for value in values) + size > _FILE_BYTES:
            write_file()
        names.append(key)
        values.append(tf.convert_to_tensor(absent[number].value))
    write_file()
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False)


def _graph_of(prefix: str) -> Graph:
    graph: Any = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(tf.train.load_checkpoint(prefix).get_tensor(_GRAPH_KEY))
    return graph


def _number(name: str) -> int | None:
    found = re.search(r"--(\d+)$", name)
    return int(found.group(1)) if found else None

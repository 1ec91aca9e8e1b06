"""Finds the models below a folder: numbered SavedModel versions as TensorFlow Serving has them, and Keras files.

A model is any folder that holds `<digits>/saved_model.pb`, at any depth; its name is that folder's (`model` at the
top). Only where there is none does a single SavedModel without a number, .keras or .h5 file count, as version 1.
"""

from __future__ import annotations

import os

from clary_toolkit.serving.errors import StartupError

SAVED_MODEL, KERAS = "SavedModel", "Keras"
_GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_EXPECTED = (
    "Expected [<name>/]<version>/saved_model.pb, as model.export('/opt/ml/model/1') writes it, "
    "or one .keras or .h5 file"
)


class FoundVersion:
    """One version of a model: what kind of file it is, and where."""

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind
        self.path = path


class FoundModel:
    """A model by name with its versions by number."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[int, FoundVersion] = {}


def find_models(folder: str) -> list[FoundModel]:
    """The models below `folder`, ordered by path; empty where there is none.

    Raises StartupError where several could be meant and nothing tells which.
    """
    numbered: dict[str, FoundModel] = {}
    names: dict[str, str] = {}
    loose: list[FoundVersion] = []
    for kind, place, path in _candidates(folder):
        version = os.path.basename(place)
        if not version.isdigit() or place == folder:
            loose.append(FoundVersion(kind, path))
            continue
        parent = os.path.dirname(place)
        name = _name(parent, folder)
        if names.setdefault(name, parent) != parent:
            raise StartupError(
                "Two models are called {!r}: {} and {}. Give their folders different names.".format(
                    name, names[name], parent
                )
            )
        model = numbered.setdefault(parent, FoundModel(name))
        other = model.versions.get(int(version))
        if other is None or other.kind == KERAS:
            model.versions[int(version)] = FoundVersion(kind, path)
    if numbered:
        return [numbered[parent] for parent in sorted(numbered)]
    return _single(loose, folder)


def nothing_found(folder: str) -> StartupError:
    """The error for a folder without a model: AWS's words first, then what lies there."""
    entries = sorted(os.listdir(folder))[:20] if os.path.isdir(folder) else []
    return StartupError(
        "no SavedModel bundles found! {} holds {}. {}.".format(
            folder, ", ".join(entries) if entries else "nothing", _EXPECTED
        )
    )


def _candidates(folder: str) -> list[tuple[str, str, str]]:
    """Kind, folder and path of whatever may be a model."""
    found: list[tuple[str, str, str]] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        if any(name in files for name in _GRAPHS):
            found.append((SAVED_MODEL, place, place))
            folders[:] = []
            continue
        if os.path.relpath(place, folder).split(os.sep)[0] == "code":
            continue
        for name in sorted(files):
            if name.endswith((".keras", ".h5", ".hdf5")) and not name.endswith(".weights.h5"):
                found.append((KERAS, place, os.path.join(place, name)))
    return found


def _single(loose: list[FoundVersion], folder: str) -> list[FoundModel]:
    for kind in (SAVED_MODEL, KERAS):
        chosen = [version for version in loose if version.kind == kind]
        if len(chosen) > 1:
            raise StartupError(
                "It is not clear which model to serve: {}. {}.".format(
                    ", ".join(os.path.relpath(version.path, folder) for version in chosen), _EXPECTED
                )
            )
        if chosen:
            path = chosen[0].path
            name = _name(path, folder) if kind == SAVED_MODEL else os.path.splitext(os.path.basename(path))[0]
            model = FoundModel(name)
            model.versions[1] = chosen[0]
            return [model]
    return []


def _name(path: str, folder: str) -> str:
    return "model" if os.path.normpath(path) == os.path.normpath(folder) else os.path.basename(path)

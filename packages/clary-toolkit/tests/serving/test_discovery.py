"""Models are found as AWS's TensorFlow Serving image finds them, and Keras files besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clary_toolkit.serving.discovery import KERAS, find_models, nothing_found
from clary_toolkit.serving.errors import StartupError
from toolkit_lab import write_files

if TYPE_CHECKING:
    from pathlib import Path


def found(folder: Path, *paths: str) -> dict[str, list[int]]:
    write_files(folder, dict.fromkeys(paths, b""))
    return {model.name: sorted(model.versions) for model in find_models(str(folder))}


def test_versions_at_the_top_belong_to_a_model_called_model(tmp_path):
    assert found(tmp_path, "1/saved_model.pb", "00012/saved_model.pb", "code/inference.py") == {"model": [1, 12]}


def test_models_are_found_at_any_depth_by_their_folders_names(tmp_path):
    assert found(tmp_path, "export/Servo/1712/saved_model.pb", "b/2/saved_model.pb") == {"b": [2], "Servo": [1712]}


def test_numbered_models_win_over_whatever_else_lies_there(tmp_path):
    assert found(tmp_path, "m/1/saved_model.pb", "checkpoint.h5", "other/saved_model.pb") == {"m": [1]}


@pytest.mark.parametrize(
    ("path", "name"),
    [("saved_model.pb", "model"), ("net/saved_model.pb", "net"), ("net.keras", "net"), ("a/net.h5", "net")],
)
def test_a_single_model_without_a_number_is_version_one(tmp_path, path, name):
    assert found(tmp_path, path, "best.weights.h5", "code/lib/example.h5") == {name: [1]}


def test_a_keras_file_may_be_numbered(tmp_path):
    assert found(tmp_path, "m/3/net.keras") == {"m": [3]}
    assert find_models(str(tmp_path))[0].versions[3].kind == KERAS


def test_several_unnumbered_models_are_not_guessed_among(tmp_path):
    with pytest.raises(StartupError, match=r"not clear which model to serve: a\.keras, b\.keras"):
        found(tmp_path, "a.keras", "b.keras")


def test_two_models_of_one_name_are_refused(tmp_path):
    with pytest.raises(StartupError, match="Two models are called 'm'"):
        found(tmp_path, "a/m/1/saved_model.pb", "b/m/1/saved_model.pb")


def test_an_empty_folder_is_told_by_what_is_there_and_what_should_be(tmp_path):
    assert found(tmp_path, "weights.bin") == {}
    message = nothing_found(str(tmp_path)).message
    assert message.startswith("no SavedModel bundles found!")
    assert "weights.bin" in message
    assert "<version>/saved_model.pb" in message

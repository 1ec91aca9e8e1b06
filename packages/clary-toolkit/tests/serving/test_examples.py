"""Results of classify and regress are written as TensorFlow Serving writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.examples import results

SCORES = np.array([[0.25, 0.75], [1, 0]], np.float32)
LABELS = np.array([[b"cat", b"dog"], [b"cat", b"dog"]], dtype=object)


def test_classes_stand_beside_their_scores():
    written = json.loads(results({"classes": LABELS, "scores": SCORES}, "classify"))
    assert written == {"results": [[["cat", 0.25], ["dog", 0.75]], [["cat", 1.0], ["dog", 0.0]]]}


def test_scores_alone_have_empty_labels_and_labels_alone_no_score():
    assert json.loads(results({"scores": SCORES}, "classify"))["results"][0] == [["", 0.25], ["", 0.75]]
    assert json.loads(results({"classes": LABELS}, "classify"))["results"][1] == [["cat", 0.0], ["dog", 0.0]]


def test_a_regression_is_a_value_for_each_example():
    assert results({"outputs": np.array([[0.5], [2]], np.float32)}, "regress") == b'{\n    "results": [0.5, 2.0]\n}'


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_outputs_of_other_names_are_refused(method):
    with pytest.raises(InvalidArgument, match="signature outputs to contain"):
        results({"y": SCORES}, method)

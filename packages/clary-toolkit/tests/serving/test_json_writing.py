"""Answers are written as TensorFlow Serving writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.json_writing import columns, decimal, predictions


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.2, "0.2"),
        (0.0900305733, "0.0900305733"),
        (9000000.0, "9e+06"),
        (0.00003, "3e-05"),
        (16777216.0, "16777216.0"),
        (-0.0, "-0.0"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_a_float_has_the_fewest_digits_of_tensorflow_serving(value, text):
    assert decimal(float(np.float32(value))) == text


def test_one_output_is_a_value_for_each_row():
    written = predictions({"y": np.array([[1, 2], [0.1, 3]], np.float32)}, compact=False)
    assert written.decode() == '{\n    "predictions": [[1.0, 2.0], [0.1, 3.0]\n    ]\n}'


def test_several_outputs_are_an_object_for_each_row():
    outputs = {"a": np.array([1, 2]), "b_bytes": np.array([b"u", b"v"], dtype=object)}
    assert json.loads(predictions(outputs, compact=False)) == {
        "predictions": [{"a": 1, "b_bytes": {"b64": "dQ=="}}, {"a": 2, "b_bytes": {"b64": "dg=="}}]
    }


def test_columns_keep_each_tensor_whole():
    assert json.loads(columns({"y": np.array([[True, False]])}, compact=False)) == {"outputs": [[True, False]]}
    outputs = {"a": np.float32(1.5).reshape(()), "b": np.array([b"\xc3\xa9"], dtype=object)}
    assert json.loads(columns(outputs, compact=True)) == {"outputs": {"a": 1.5, "b": ["é"]}}


def test_rows_need_outputs_of_the_same_length():
    with pytest.raises(InvalidArgument, match="has inconsistent batch size: 1 expecting: 2"):
        predictions({"a": np.zeros(2), "b": np.zeros(1)}, compact=True)
    with pytest.raises(InvalidArgument, match="has no shape information"):
        predictions({"a": np.zeros(())}, compact=True)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=60, max_size=90))
def test_many_floats_are_written_as_each_alone_and_read_back_equal(values):
    array = np.array(values, dtype=np.float32)
    text = predictions({"y": array}, compact=True).decode()
    assert text == '{"predictions": [' + ", ".join(decimal(value) for value in array.tolist()) + "]}"
    assert np.array_equal(np.array(json.loads(text)["predictions"], dtype=np.float32), array)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=60, max_size=90))
def test_doubles_read_back_equal(values):
    array = np.array(values, dtype=np.float64)
    assert json.loads(predictions({"y": array}, compact=True))["predictions"] == values


@pytest.mark.parametrize("shape", [(2, 0), (0,), (2, 3, 0, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("compact", [True, False])
def test_any_shape_is_written(shape, compact):
    array = np.arange(np.prod(shape)).reshape(shape)
    assert json.loads(predictions({"y": array}, compact))["predictions"] == array.tolist()
    assert json.loads(columns({"y": array}, compact))["outputs"] == array.tolist()

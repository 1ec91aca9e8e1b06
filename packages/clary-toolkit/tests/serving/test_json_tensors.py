"""Predict requests become tensors, or errors in TensorFlow Serving's words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.json_reading import read_invocation, read_request
from clary_toolkit.serving.json_tensors import tensors_of
from clary_toolkit.serving.signatures import Signature, TensorSpec


def signature(**dtypes: str) -> Signature:
    types = {"float": np.float32, "double": np.float64, "int32": np.int32, "uint8": np.uint8, "int64": np.int64}
    types.update({"bool": np.bool_, "string": object, "half": np.float16})
    return Signature("serving_default", [TensorSpec(n, d, types[d], (-1,)) for n, d in dtypes.items()], [])


def read(body: str, **dtypes: str) -> dict[str, np.ndarray]:
    return tensors_of(read_request(body.encode()), signature(**dtypes))[1]


@pytest.mark.parametrize(
    ("body", "dtype", "expected"),
    [
        ('{"instances": [[1, 2], [3, 4.5]]}', "float", [[1, 2], [3, 4.5]]),
        ('{"instances": [1.0, 2.0, 5.0]}', "float", [1, 2, 5]),
        ('{"inputs": [[1, 2]]}', "int32", [[1, 2]]),
        ('{"inputs": 3}', "int64", 3),
        ('{"instances": [NaN, Infinity, -Inf]}', "float", [np.nan, np.inf, -np.inf]),
        ('{"instances": [true, false]}', "bool", [True, False]),
        ('{"instances": [255, 0]}', "uint8", [255, 0]),
        ('{"instances": [{"x": [1]}, {"x": [2]}]}', "float", [[1], [2]]),
    ],
)
def test_numbers_in_rows_and_columns_become_tensors(body, dtype, expected):
    array = read(body, x=dtype)["x"]
    assert array.dtype == signature(x=dtype).inputs["x"].numpy
    np.testing.assert_array_equal(array, np.array(expected, dtype=array.dtype))


def test_strings_are_bytes_and_b64_is_decoded():
    array = read('{"instances": ["é", {"b64": "AP8="}]}', x="string")["x"]
    assert array.tolist() == ["é".encode(), b"\x00\xff"]


def test_named_inputs_come_in_rows_or_columns():
    rows = read('{"instances": [{"a": 1, "b": "u"}, {"a": 2, "b": "v"}]}', a="float", b="string")
    columns = read('{"inputs": {"a": [1, 2], "b": ["u", "v"]}}', a="float", b="string")
    for tensors in (rows, columns):
        assert tensors["a"].tolist() == [1.0, 2.0]
        assert tensors["b"].tolist() == [b"u", b"v"]


@pytest.mark.parametrize(
    ("body", "dtype", "message"),
    [
        ("", "float", "JSON Parse error: The document is empty"),
        ('{"instances": [1,}', "float", "JSON Parse error: Invalid value. at offset: 17"),
        ("[1, 2]", "float", "Is not object"),
        ("{}", "float", "Missing 'inputs' or 'instances' key"),
        ('{"instances": []}', "float", "No values in 'instances' array"),
        ('{"instances": 3}', "float", "Excepting 'instances' to be an list/array"),
        ('{"instances": [1], "inputs": [1]}', "float", "expecting only one of 'inputs' or 'instances' keys"),
        ('{"instances": ["1"]}', "float", 'JSON Value: "1" Type: String is not of expected type: float'),
        ('{"instances": [1.0]}', "int32", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ('{"instances": [true]}', "float", "JSON Value: true Type: True is not of expected type: float"),
        ('{"instances": [1, true]}', "int32", "JSON Value: true Type: True is not of expected type: int32"),
        ('{"instances": [null]}', "float", "Type: Null is not of expected type: float"),
        ('{"instances": [256]}', "uint8", "is not of expected type: uint8"),
        ('{"instances": [5]}', "string", "JSON Value: 5 Type: Number is not of expected type: string"),
        (
            '{"instances": [16777217]}',
            "float",
            "Cannot convert JSON value: 16777217 to float without loss of precision.",
        ),
        ('{"instances": [1e39]}', "float", "to float without loss of precision."),
        ('{"instances": [[1, 2], [3]]}', "float", "Expecting tensor size: 2 but got: 1"),
        ('{"instances": [[1], [[2]]]}', "float", "Expecting shape [1] but got: [1,1]"),
        ('{"inputs": [[1, 2], [3]]}', "float", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [1, [2]]}', "float", "Encountered list at unexpected level: 1 expected < 1"),
        ('{"inputs": [[1], 2]}', "float", "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"instances": [1, {"x": 2}]}', "float", "Expecting value/list but got object at item 1 of input list"),
        ('{"instances": [{"y": 2}]}', "float", "JSON object: does not have named input: y"),
        ('{"instances": [{"x": 1}, {}]}', "float", "keys must be equal to: x"),
        ('{"instances": [{"b64": "@"}]}', "string", "Unable to base64 decode"),
        ('{"signature_name": 3, "inputs": {"y": 1}}', "float", "Missing named input: x in 'inputs' object."),
    ],
)
def test_what_does_not_fit_is_told_in_tensorflow_servings_words(body, dtype, message):
    with pytest.raises(InvalidArgument) as caught:
        read(body, x=dtype)
    assert message in caught.value.message
    assert caught.value.status == 400


def test_what_the_model_expects_is_a_hint_beside_the_error():
    with pytest.raises(InvalidArgument) as caught:
        read('{"instances": ["a"]}', x="float")
    assert caught.value.hint == 'The signature "serving_default" expects x: float of shape [-1] (-1 is any size).'
    assert "expects" not in caught.value.message


@pytest.mark.parametrize(
    ("release", "word"), [("1.15", "Invalid argument"), ("2.6", "Invalid argument"), ("2.7", "INVALID_ARGUMENT")]
)
def test_the_code_of_a_wrong_argument_is_written_as_the_images_release_does(monkeypatch, release, word):
    monkeypatch.setenv("SAGEMAKER_TFS_VERSION", release)
    with pytest.raises(InvalidArgument) as caught:
        read('{"instances": ["]["]}', x="float")
    assert caught.value.message == (
        f"Failed to process element: 0 of 'instances' list. Error: {word}: "
        'JSON Value: "][" Type: String is not of expected type: float'
    )


@pytest.mark.parametrize(
    ("body", "instances"),
    [
        ("[1, 2, 3]", [[1, 2, 3]]),
        ("[[1], [2]]", [[1], [2]]),
        ('{"x": 1}', [{"x": 1}]),
        ("5", [5]),
        ("[1, 2]\n[3, 4]\n", [[1, 2], [3, 4]]),
        ('{"x": 1}{"x": 2}', [{"x": 1}, {"x": 2}]),
        ('{"x": 1}\r\n\r\n{"x": 2}', [{"x": 1}, {"x": 2}]),
    ],
)
def test_other_json_becomes_instances(body, instances):
    assert read_invocation(body.encode()) == {"instances": instances}


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_floats_come_through_unchanged(rows):
    document = {"instances": rows}
    fast = tensors_of(document, signature(x="float"), booleans=False)[1]["x"]
    careful = tensors_of(document, signature(x="float"), booleans=True)[1]["x"]
    np.testing.assert_array_equal(fast, np.array(rows, dtype=np.float32))
    np.testing.assert_array_equal(careful, fast)

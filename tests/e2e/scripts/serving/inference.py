"""The two functions of AWS's TensorFlow Serving container: what goes to the model, and what comes back."""

import json


def input_handler(data, context):
    """Pass JSON on as it is."""
    assert context.request_content_type == "application/json", context.request_content_type
    return json.dumps(json.loads(data.read()))


def output_handler(response, context):
    """Say that this code ran."""
    if response.status_code != 200:
        raise ValueError(response.content.decode())
    return json.dumps({**response.json(), "handler": "inference.py"}), context.accept_header

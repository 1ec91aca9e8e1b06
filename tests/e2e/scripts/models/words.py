"""A model whose behaviour its input names: for tests of what the platform makes of it."""

import json
import os
import time


def model_fn(model_dir):
    return os.environ.get("NAME", "model")


def transform_fn(model, data, content_type, accept, context):
    text = data.decode() if isinstance(data, bytes) else data
    word, _, rest = text.partition(" ")
    if word == "stream":
        return pieces(int(rest)), "text/plain"
    if word == "break":
        return broken(), "text/plain"
    if word == "raise":
        raise ValueError("no such luck")
    if word == "refuse":
        raise Refused
    if word == "sleep":
        time.sleep(float(rest))
    if word == "exit":
        os._exit(3)
    headers = context.get_all_request_header(0) if hasattr(context, "get_all_request_header") else {}
    told = {"model": model, "text": text, "content_type": content_type, "accept": accept, "headers": dict(headers)}
    told["release"] = os.environ.get("SAGEMAKER_TFS_VERSION")
    return json.dumps(told), "application/json"


class Refused(Exception):
    status_code = 422
    message = "this input is not for me"


def pieces(count):
    for number in range(count):
        yield "piece %d\n" % number
        time.sleep(0.05)


def broken():
    yield "one\n"
    time.sleep(0.1)
    raise RuntimeError("in the middle")

"""Files closed in output/intermediate are in S3 while the script still runs, and all of them at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from conformance_cases import PROGRAM
from moto.server import ThreadedMotoServer

from toolkit_lab import Ended, Tree

KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
SCRIPT = """
import os, sys, time, urllib.request
folder = os.environ["SM_OUTPUT_INTERMEDIATE_DIR"]
os.makedirs(folder + "/deep/er")
with open(folder + "/deep/er/first.txt", "w") as file:
    file.write("first")
with open(folder + "/moved.tmp", "w") as file:
    file.write("moved")
os.rename(folder + "/moved.tmp", folder + "/moved.txt")
address = os.environ["AWS_ENDPOINT_URL"] + "/results/prefix/job-1/output/intermediate/deep/er/first.txt"
deadline = time.time() + 30
while True:  # the object is there before the script ends
    try:
        assert urllib.request.urlopen(address).read() == b"first"
        break
    except OSError:
        if time.time() > deadline:
            raise
        time.sleep(0.05)
with open(folder + "/last.txt", "w") as file:
    file.write("last")
sys.exit(int(sys.argv[2]))
"""

Train = Callable[..., Ended]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str) -> Any:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    client.create_bucket(Bucket="results", ACL="public-read")
    return client


@pytest.mark.parametrize("exit_code", [0, 1])
def test_files_are_uploaded_as_they_are_closed(exit_code: int, train: Train, endpoint: str, client: Any) -> None:
    parameters = {**PROGRAM, "sagemaker_s3_output": '"s3://results/prefix/"', "code": str(exit_code)}
    variables = {**KEYS, "AWS_ENDPOINT_URL": endpoint, "TRAINING_JOB_NAME": "job-1"}
    ended = train(Tree({"train.py": SCRIPT}, parameters), variables)
    assert ended.exit_code == exit_code, ended.output
    prefix = "prefix/job-1/output/intermediate/"
    listed = client.list_objects_v2(Bucket="results", Prefix=prefix)["Contents"]
    names = {entry["Key"].removeprefix(prefix) for entry in listed}
    assert {"deep/er/first.txt", "moved.txt", "last.txt"} <= names


def test_a_folder_that_is_there_is_the_platforms_to_upload(train: Train) -> None:
    tree = Tree(
        {"train.py": "import os\nopen(os.environ['SM_OUTPUT_INTERMEDIATE_DIR'] + '/x', 'w').close()\n"},
        {**PROGRAM, "sagemaker_s3_output": "s3://nowhere/at/all"},
        files={"output/intermediate/.keep": ""},
    )
    assert train(tree, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).exit_code == 0


def test_an_address_that_is_none_is_named(train: Train) -> None:
    ended = train(Tree({"train.py": ""}, {**PROGRAM, "sagemaker_s3_output": "ftp://x"}))
    assert ended.failure is not None
    assert "'ftp://x'" in ended.failure

"""What a job's code can see: its own data, and nothing else of the person whose machine it runs on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Platform

pytestmark = pytest.mark.slow

SEARCH = """
import json, os, pathlib, sigv4_get
home, model = json.loads(os.environ["SM_HPS"])["targets"]
found = {}
for target in ("", "credentials.json", "clary.db", "jobs", "store"):
    path = pathlib.Path(home, target)
    try:
        found[target] = sorted(os.listdir(path)) if path.is_dir() else path.read_bytes().decode("latin-1")
    except OSError:
        found[target] = None
commands = [pathlib.Path("/proc", pid, "cmdline").read_text() for pid in os.listdir("/proc") if pid.isdigit()]
print("SEEN " + json.dumps({"paths": found, "commands": commands}), flush=True)
print("GET", sigv4_get.status(model.replace("s3 ", "s3://")), flush=True)
"""
SIGV4_GET = '''
"""Signs one S3 GET with the job's own credentials, with the standard library alone."""
import datetime, hashlib, hmac, os, urllib.error, urllib.parse, urllib.request


def status(uri):
    bucket, key = uri[len("s3://"):].split("/", 1)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    host = urllib.parse.urlsplit(endpoint).netloc
    path = "/" + bucket + "/" + urllib.parse.quote(key)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": now,
               "x-amz-security-token": os.environ["AWS_SESSION_TOKEN"]}
    names = ";".join(sorted(headers))
    signed = [f"{name}:{headers[name]}" for name in sorted(headers)]
    canonical = "\\n".join(["GET", path, "", *signed, "", names, "UNSIGNED-PAYLOAD"])
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    text = "\\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
    for part in (now[:8], "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, "
                                f"SignedHeaders={names}, Signature={signature}")
    try:
        return urllib.request.urlopen(urllib.request.Request(endpoint + path, headers=headers)).status
    except urllib.error.HTTPError as error:
        return error.code
'''


def test_a_job_sees_neither_the_home_nor_the_keys_nor_another_jobs_model(platform: Platform) -> None:
    platform.train("keeps-secret", "open('/opt/ml/model/weights', 'w').write('secret')\n")
    model = platform.wait("keeps-secret")["ModelArtifacts"]["S3ModelArtifacts"]
    platform.upload_source("curious/sourcedir.tar.gz", {"train.py": SEARCH, "sigv4_get.py": SIGV4_GET})
    platform.create(
        "curious",
        "s3://faults/curious/sourcedir.tar.gz",
        HyperParameters={
            "sagemaker_program": '"train.py"',
            "sagemaker_submit_directory": '"s3://faults/curious/sourcedir.tar.gz"',
            # Not the address itself: what a request names, its job may read.
            "targets": json.dumps([str(platform.home), model.replace("s3://", "s3 ")]),
        },
    )
    described = platform.wait("curious")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    lines = platform.log("curious")
    seen = json.loads(next(line for line in lines if line.startswith("SEEN "))[5:])
    assert seen["paths"].pop("") == ["images"], "the image that it runs on is all that a job sees of the home folder"
    assert not any(seen["paths"].values()), seen["paths"]
    assert not any("clary.server" in command or "weed" in command for command in seen["commands"])
    assert "GET 403" in lines


def test_a_job_without_network_reaches_nothing(platform: Platform) -> None:
    script = """
import os, socket
address = os.environ.get("AWS_ENDPOINT_URL", "http://127.0.0.1:7700").rsplit(":", 1)[1]
try:
    socket.create_connection(("127.0.0.1", int(address)), 3)
    print("REACHED")
except OSError as error:
    print("NOT REACHED", error)
"""
    platform.train("isolated-source", "pass\n")
    platform.wait("isolated-source")
    platform.upload_source("isolated/code/sourcedir.tar.gz", {"train.py": script})
    platform.create(
        "isolated",
        "/opt/ml/input/data/code/sourcedir.tar.gz",
        EnableNetworkIsolation=True,
        InputDataConfig=[
            {
                "ChannelName": "code",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": "s3://faults/isolated/code/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
    )
    described = platform.wait("isolated")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert any(line.startswith("NOT REACHED") for line in platform.log("isolated"))

"""Objects are read and written with the signature that AWS's own clients make."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from moto.server import ThreadedMotoServer

from clary_toolkit.training import credentials, s3
from clary_toolkit.training.errors import ClientError

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "sec/ret+key", "AWS_SESSION_TOKEN": "to/ken=="}


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("key", ["a/b.tar.gz", "job 1/source/ü+x=y&z.tar.gz", "~tilde/%41/*'()!.gz"])
@pytest.mark.parametrize("token", [None, "to/ken=="])
def test_a_request_is_signed_as_botocore_signs_it(key: str, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    target = "/bucket/" + quote(key, safe="/-_.~")
    headers = s3.sign(
        "GET", "store:7700", target, "eu-west-1", credentials.Credentials("AKID", "sec/ret", token), 1_700_000_000.5
    )
    request = AWSRequest("GET", "http://store:7700" + target)
    request.context["timestamp"] = headers["x-amz-date"]
    request.headers["x-amz-date"] = headers["x-amz-date"]
    request.headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
    if token:
        request.headers["x-amz-security-token"] = token
    signer = S3SigV4Auth(BotoCredentials("AKID", "sec/ret", token), "s3", "eu-west-1")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert headers["authorization"].endswith("Signature=" + signature)


def test_objects_are_written_and_read_back(store: str, tmp_path: Path) -> None:
    environ = {**KEYS, "AWS_ENDPOINT_URL": store}
    client = boto3.client(
        "s3", endpoint_url=store, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    client.create_bucket(Bucket="things")
    (tmp_path / "source").write_bytes(b"\0\1" * 500_000)
    s3.upload(str(tmp_path / "source"), "s3://things/a b/ü.bin", environ)
    s3.download("s3://things/a b/ü.bin", str(tmp_path / "copy"), environ)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "source").read_bytes()
    assert client.get_object(Bucket="things", Key="a b/ü.bin")["ContentLength"] == 1_000_000


def test_what_s3_refuses_is_told_in_its_own_words(store: str, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"s3://no-such-bucket-1/key: 404 NoSuchBucket"):
        s3.download("s3://no-such-bucket-1/key", str(tmp_path / "x"), {**KEYS, "AWS_ENDPOINT_URL": store})


def test_missing_credentials_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="AWS_ACCESS_KEY_ID"):
        s3.download("s3://bucket/key", str(tmp_path / "x"), {})


@pytest.mark.parametrize("uri", ["s3://bucket", "s3:///key", "s3://bucket/"])
def test_an_address_without_bucket_or_key_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="s3://bucket/key"):
        s3.download(uri, str(tmp_path / "x"), KEYS)


class _Unsteady(http.server.BaseHTTPRequestHandler):
    """Fails in a new way each time, then answers; /credentials gives credentials to who knows the token."""

    answers: list[int]

    def do_GET(self) -> None:
        if self.path == "/credentials":
            self.send_response(200 if self.headers["Authorization"] == "tell-me" else 403)
            self.end_headers()
            self.wfile.write(b'{"AccessKeyId": "AKID", "SecretAccessKey": "s", "Token": "t", "Expiration": "x"}')
            return
        status = self.answers.pop(0)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(200 if status == 206 else status)
        self.send_header("Content-Length", "10" if status == 206 else "4")
        self.end_headers()
        self.wfile.write(b"good")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def unsteady() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Unsteady) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_store_that_restarts_is_waited_for(unsteady: str, tmp_path: Path) -> None:
    _Unsteady.answers = [503, 0, 206, 500, 200]  # an error, a closed connection, half an answer, an error, the object
    s3.download("s3://bucket/key", str(tmp_path / "x"), {**KEYS, "S3_ENDPOINT_URL": unsteady})
    assert (tmp_path / "x").read_bytes() == b"good"


def test_credentials_come_from_the_containers_address(unsteady: str) -> None:
    address = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": unsteady + "/credentials"}
    found = credentials.find({**address, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "tell-me"})
    assert (found.access_key, found.secret_key, found.session_token) == ("AKID", "s", "t")
    with pytest.raises(ClientError, match="/credentials"):
        credentials.find(address)

"""The front tells S3 from the API, bounds what it reads, and hands over only what is authenticated."""

from __future__ import annotations

import asyncio
import json

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clary.front import app, asgi
from clary.front.credentials import CredentialStore
from clary.front.reports import Reports
from clary.host.spec import HostOrders
from clary.settings import Settings
from clary.wire.errors import AccessDenied
from clary.wire.messages import WireResponse


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return CredentialStore(home, Settings(home=home))


class Application:
    """A front, what it handed over, and a client of it."""

    def __init__(self, credentials, receive_report=None) -> None:
        self.credentials = credentials
        self.api: list = []
        self.s3: list = []
        self.front = app.Front(
            credentials=credentials,
            dispatch=self._dispatch,
            s3=self._s3,
            reports=Reports(receive_report),
            health=lambda: {"status": "ready"},
        )

    async def _dispatch(self, request, caller):
        self.api.append((request, caller))
        return WireResponse(200, {"content-type": "text/plain"}, b"api")

    async def _s3(self, scope, receive, send):
        self.s3.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"s3"})

    def ask(self, method, target, *, headers=(), body=b"", service=None, pieces=None):
        signed = AWSRequest(method, f"http://localhost{target}", data=body, headers=dict(headers))
        if service:
            keys = Credentials(self.credentials.root.access_key, self.credentials.root.secret_key)
            SigV4Auth(keys, service, "us-east-1").add_auth(signed)
        path, _, query = target.partition("?")
        named = {"host": "localhost", **{k.lower(): str(v) for k, v in signed.headers.items()}}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
        return asyncio.run(self._exchange(scope, pieces if pieces is not None else [body]))

    async def _exchange(self, scope, pieces):
        sent = []
        left = list(pieces)

        async def receive():
            if not left:
                await asyncio.sleep(3600)
            piece = left.pop(0)
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": bool(left) or len(pieces) != 1}

        async def send(message):
            sent.append(message)

        await self.front(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def application(credentials):
    return Application(credentials)


JSON = {"x-amz-target": "SageMaker.ListTrainingJobs", "content-type": "application/x-amz-json-1.1"}


def test_an_api_request_goes_to_the_dispatcher_with_its_caller(application):
    assert application.ask("POST", "/", headers=JSON, body=b"{}", service="sagemaker") == (200, b"api")
    ((request, caller),) = application.api
    assert request.body == b"{}"
    assert caller.access_key == application.credentials.root.access_key


def test_an_s3_request_goes_to_the_store_with_its_authentication(application):
    sha = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    assert application.ask("PUT", "/bucket/key", headers=sha, body=b"", service="s3")[0] == 200
    assert application.s3[0][app.AUTHENTICATION].payload == "UNSIGNED-PAYLOAD"


@pytest.mark.parametrize(
    ("method", "target", "headers", "status", "words"),
    [
        ("POST", "/", JSON, 400, b"MissingAuthenticationTokenException"),
        ("GET", "/?Action=GetCallerIdentity&Version=2011-06-15", {}, 403, b"<Code>MissingAuthenticationToken</Code>"),
        ("POST", "/endpoints/e/invocations", {}, 403, b"Missing Authentication Token"),
        ("GET", "/bucket/key", {}, 403, b"<Code>AccessDenied</Code>"),
        ("GET", "/", {}, 403, b"<Code>AccessDenied</Code>"),
        ("GET", "/bucket/key", {"authorization": "AWS AKIA:xyz"}, 400, b"<Code>InvalidRequest</Code>"),
    ],
)
def test_what_is_not_signed_is_refused_in_the_form_of_its_service(application, method, target, headers, status, words):
    answered, body = application.ask(method, target, headers=headers)
    assert answered == status
    assert words in body
    assert application.api == application.s3 == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read(application, monkeypatch):
    monkeypatch.setattr(app, "MAX_BODY", 100)
    headers = {**JSON, "content-length": "101"}
    status, body = application.ask("POST", "/", headers=headers, service="sagemaker", pieces=[])
    assert (status, json.loads(body)["__type"]) == (413, "RequestEntityTooLargeException")


def test_a_body_that_grows_too_large_is_refused(application, monkeypatch):
    monkeypatch.setattr(app, "MAX_BODY", 100)
    status, _ = application.ask("POST", "/", headers=JSON, service="sagemaker", pieces=[b"x" * 60, b"x" * 60])
    assert status == 413


def test_a_body_that_does_not_come_is_given_up(application, monkeypatch):
    monkeypatch.setattr(asgi, "BODY_SECONDS", 0.05)
    status, body = application.ask("POST", "/", headers=JSON, service="sagemaker", pieces=[b"x", b"y"])
    assert (status, json.loads(body)["__type"]) == (408, "RequestTimeout")


def test_a_client_that_goes_away_is_no_fault(application):
    assert application.ask("POST", "/", headers=JSON, service="sagemaker", pieces=[b"x", None])[0] == 408
    assert application.api == []


def test_health_needs_no_signature(application):
    assert application.ask("GET", "/_clary/health") == (200, b'{"status":"ready"}')


def test_other_routes_of_clary_do_not_exist(application):
    assert application.ask("GET", "/_clary/secrets")[0] == 404
    assert application.ask("GET", "/_clary/hosts/h/report")[0] == 404


REPORT = json.dumps({"host_id": "h", "phases": []}).encode()


def test_a_host_reports_with_its_own_token(credentials):
    def receive(host_id, token, report):
        assert (host_id, token, report.host_id) == ("h", "secret", "h")
        return HostOrders(wanted="stop")

    application = Application(credentials, receive)
    status, body = application.ask(
        "POST", "/_clary/hosts/h/report", headers={"authorization": "Bearer secret"}, body=REPORT
    )
    assert (status, json.loads(body)["wanted"]) == (200, "stop")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, REPORT, 401),
        ({"authorization": "Bearer wrong"}, REPORT, 403),
        ({"authorization": "Bearer secret"}, b"nonsense", 400),
        ({"authorization": "Bearer secret"}, b"{}", 400),
        ({"authorization": "Bearer secret"}, b'{"host_id": "broken", "phases": []}', 500),
    ],
)
def test_a_report_that_cannot_be_taken_says_why(credentials, headers, body, status):
    def receive(host_id, token, report):
        if token != "secret":
            raise AccessDenied("not this host's token", status=403)
        raise RuntimeError("the record is gone")

    answered, told = Application(credentials, receive).ask("POST", "/_clary/hosts/h/report", headers=headers, body=body)
    assert answered == status
    assert json.loads(told)["message"]

"""Ten thousand requests from the service models, valid and broken: never a 500, never a hang, always AWS's form."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clary.front.app import Front
from clary.front.credentials import CredentialStore
from clary.server.api import load_handlers
from clary.services import registry
from clary.settings import Settings
from clary.state.database import Database
from clary.state.migrate import upgrade
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore
from clary.wire.dispatch import Dispatcher
from clary.wire.services import BY_NAME, SERVICES, model

REQUESTS = 10_000
SECONDS_EACH = 30
KNOWN_NAMES = ("fuzz-job", "fuzz-job-2")
STRANGE = ("", "\x01", "é" * 40, "a" * 70_000, "../../etc/passwd", "' OR 1=1 --", "%00", "\U0001f600", "-", "0", "null")
NUMBERS = (-1, 0, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, 0.5)


class Requests:
    """Requests of every kind, the same for the same seed."""

    def __init__(self, wire, sampler, keys) -> None:
        self.wire, self.sampler, self.keys = wire, sampler, keys
        self.random: random.Random = sampler.random
        self.implemented = sorted(registry.operations())
        self.tokens = ["x"]

    def next(self):
        """A service, an operation, a protocol and the request as the wire has it."""
        if self.random.random() < 0.9:
            service, operation = self.random.choice(self.implemented)
        else:
            service = self.random.choice(SERVICES).name
            operation = self.random.choice(model(service).operation_names)
        protocol = BY_NAME[service].protocol
        if service == "cloudwatch" and self.random.random() < 0.4:
            protocol = "query"
        shape = model(service).operation_model(operation).input_shape
        params = self.sampler.structure(shape) if shape is not None else {}
        self._use_known_names(params)
        spoil = self.random.choice((None, None, self._spoil_value, self._spoil_body, self._spoil_frame))
        if spoil == self._spoil_value:
            self._spoil_value(params)
        try:
            request = self.wire.request(service, operation, params, protocol)
        except Exception:  # noqa: BLE001 - botocore cannot write every wrong value; the body can
            request = self.wire.request(service, operation, {}, protocol) if protocol != "rest-json" else None
        if request is None:
            return self.next()
        if spoil == self._spoil_value and protocol == "json":
            request = replace(request, body=json.dumps(params, default=str).encode())
        if spoil in (self._spoil_body, self._spoil_frame):
            request = spoil(request)
        return service, operation, protocol, self._signed(request, service)

    def _use_known_names(self, params) -> None:
        for name in params:
            if name.endswith("Name") and self.random.random() < 0.6 and isinstance(params[name], str):
                params[name] = self.random.choice(KNOWN_NAMES)
            if name.lower().endswith("token"):
                params[name] = self.random.choice(self.tokens)

    def _spoil_value(self, value, depth=0) -> None:
        """Change one member somewhere inside to something that it should not be."""
        if not isinstance(value, (dict, list)) or not value:
            return
        key = self.random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[key], (dict, list)) and value[key] and self.random.random() < 0.7:
            self._spoil_value(value[key], depth + 1)
        elif self.random.random() < 0.2 and isinstance(value, dict):
            del value[key]
        else:
            value[key] = self._strange()

    def _strange(self):
        nested = []
        for _ in range(self.random.choice((1, 50, 900))):
            nested = [nested]
        kinds = (*STRANGE, *NUMBERS, None, True, [], {}, [None], {"a": None}, nested, ["a"] * 2000, {"": ""})
        return self.random.choice(kinds)

    def _spoil_body(self, request):
        body = request.body
        cut = self.random.randrange(len(body) + 1)
        spoiled = (
            b"",
            body[:cut],
            body[:cut] + bytes(self.random.randrange(256) for _ in range(20)) + body[cut:],
            b"\xff\xfe" + body,
            b'{"a":' * 5000,
            b"[" * 100_000,
            b"NaN",
            b'{"MaxResults": NaN}',
            b'{"MaxResults": 1' + b"0" * 5000 + b"}",
            b'{"TrainingJobName": "\\ud800"}',
            b'{"TrainingJobName": "a\\u0000"}',
            b"A" * 500_000,
            b"&".join(b"a.%d=1" % n for n in range(11_000)),
            b".".join([b"Tags"] * 2000) + b"=1&" + body,
        )
        return replace(request, body=self.random.choice(spoiled))

    def _spoil_frame(self, request):
        headers = dict(request.headers)
        what = self.random.randrange(7)
        if what == 0:
            types = ("text/plain", "application/cbor", "", "application/x-www-form-urlencoded", "multipart/form-data")
            headers["content-type"] = self.random.choice(types)
        elif what == 1:
            headers["x-amz-target"] = self.random.choice(
                ("", ".", "SageMaker.", "SageMaker.X", "\xff", "Logs_20140328.Nope")
            )
        elif what == 2:
            headers.pop("x-amz-target", None)
        elif what == 3:
            return replace(request, method=self.random.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")))
        elif what == 4:
            paths = (
                "//",
                "/%00",
                "/endpoints/%FF%FE/invocations",
                "/endpoints//invocations",
                "/" + "a/" * 2000,
                "/%zz",
            )
            return replace(request, path=self.random.choice(paths))
        elif what == 5:
            queries = ("Action=GetRole&Version=2010-05-08", "a=%FF", "&&=&", "Action=" + "x" * 5000, "x=" + quote("\0"))
            return replace(request, query=self.random.choice(queries))
        else:
            names = (
                "x-amzn-sagemaker-custom-attributes",
                "x-amzn-sagemaker-target-variant",
                "accept",
                "content-length",
            )
            headers[self.random.choice(names)] = self.random.choice(("", "\xff", "a" * 5000, "-1", "1e9"))
        return replace(request, headers=headers)

    def _signed(self, request, service):
        """Signed as botocore does; sometimes with a wrong key, or not at all."""
        chance = self.random.random()
        if chance < 0.02:
            return request
        keys = self.keys if chance > 0.04 else Credentials("AKIANOBODY", "x")
        url = f"http://127.0.0.1:7700{request.path}" + (f"?{request.query}" if request.query else "")
        signing = AWSRequest(request.method, url, data=request.body, headers=dict(request.headers))
        SigV4Auth(keys, BY_NAME[service].signing_name, "us-east-1").add_auth(signing)
        headers = {name.lower(): str(value) for name, value in signing.headers.items()}
        return replace(request, headers={**headers, "host": "127.0.0.1:7700"})


async def send(front, request):
    """The status, headers and body that the application answers."""
    sent: list[dict] = []
    pieces = [request.body[:1000], request.body[1000:]]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def reply(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode("latin-1"),
        "query_string": request.query.encode("latin-1"),
        "headers": [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in request.headers.items()],
    }
    await asyncio.wait_for(front(scope, receive, reply), SECONDS_EACH)
    headers = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def problem_of(status, headers, body, method) -> str:
    """What is wrong with an answer, or nothing: an error is told as AWS tells it in the protocol of the answer."""
    if status >= 500:
        return f"answered {status}"
    if status < 300 or method == "HEAD":
        return ""
    try:
        if "xml" in headers["content-type"]:
            codes = [node.text for node in ElementTree.fromstring(body).iter() if node.tag.endswith("Code")]
            return "" if codes and codes[0] else "no code"
        told = json.loads(body)
        is_typed = headers["content-type"].startswith("application/x-amz-json")
        code = told["__type"] if is_typed else headers["x-amzn-errortype"]
        return "" if code and isinstance(told.get("message", told.get("Message")), str) else "no code or message"
    except (KeyError, ValueError, ElementTree.ParseError) as error:
        return f"not in AWS's form: {error!r}"


@pytest.mark.slow
def test_ten_thousand_requests_get_answers(wire, make_sampler, tmp_path, caplog):
    settings = Settings(home=tmp_path)
    credentials = CredentialStore(tmp_path, settings)
    keys = Credentials(credentials.root.access_key, credentials.root.secret_key)
    upgrade(settings.resolved_database_url)
    seen: dict[int, int] = {}
    wrong: dict[tuple[str, str, str], str] = {}

    async def s3(scope, receive, send):
        raise AssertionError(f"an API request was taken for one to S3: {scope['path']}")

    async def run() -> None:
        store = EmbeddedStore(settings)
        await store.start()
        objects = ObjectStore(store.access, patience=10)
        database = Database(settings.resolved_database_url)
        try:
            await objects.create_bucket("bucket")
            handlers = load_handlers(settings, database, objects, credentials)
            dispatch = Dispatcher(handlers, settings.region).handle
            front = Front(credentials=credentials, dispatch=dispatch, s3=s3, reports=None, health=dict)
            requests = Requests(wire, make_sampler(7), keys)
            for number in range(REQUESTS):
                service, operation, protocol, request = requests.next()
                status, headers, body = await send(front, request)
                seen[status] = seen.get(status, 0) + 1
                problem = problem_of(status, headers, body, request.method)
                if problem:
                    told = f"request {number}, {service}.{operation} ({protocol}): {problem}\n{body[:300]!r}\n{request}"
                    wrong.setdefault((service, operation, problem), told[:3000])
                if status == 200 and protocol == "json" and request.method == "POST":
                    requests.tokens += [v for k, v in json.loads(body).items() if k.lower().endswith("token")][:1]
        finally:
            database.close()
            await objects.close()
            await store.stop()

    asyncio.run(run())
    assert not wrong, "\n\n".join([str(sorted(wrong)), *list(wrong.values())[:5], caplog.text[-4000:]])
    assert "Traceback" not in caplog.text
    assert seen[200] > REQUESTS / 20, seen
    assert seen[400] > REQUESTS / 20, seen

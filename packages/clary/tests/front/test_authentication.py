"""Requests as botocore signs them are let in; the others are refused in the words of the service they are for."""

from __future__ import annotations

import datetime as dt
import hashlib
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.client import Config
from botocore.credentials import Credentials

from clary.front import authentication
from clary.front.credentials import CredentialStore
from clary.settings import Settings
from clary.wire.errors import AwsError
from clary.wire.messages import WireRequest

HOST = "http://127.0.0.1:7700"
JSON = {"X-Amz-Target": "SageMaker.ListTrainingJobs", "Content-Type": "application/x-amz-json-1.1"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return CredentialStore(home, Settings(home=home))


@pytest.fixture
def keys(credentials):
    return Credentials(credentials.root.access_key, credentials.root.secret_key)


def received(signed: AWSRequest) -> WireRequest:
    """The request as the front has it, from what a client sends."""
    prepared = signed.prepare()
    parts = urlsplit(prepared.url)
    headers = {
        name.lower(): value if isinstance(value, str) else value.decode() for name, value in prepared.headers.items()
    }
    headers.setdefault("host", parts.netloc)
    body = prepared.body or b""
    return WireRequest(
        prepared.method, parts.path, parts.query, headers, body.encode() if isinstance(body, str) else body
    )


def api_request(
    keys, *, service="sagemaker", path="/", headers=JSON, body=b"{}", method="POST", at=None, monkeypatch=None
):
    request = AWSRequest(method, HOST + path, data=body, headers=dict(headers))
    signer = SigV4Auth(keys, service, "us-east-1")
    _sign(signer, request, at, monkeypatch)
    return received(request)


def _sign(signer, request, at, monkeypatch):
    if at is not None:
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: at.replace(tzinfo=None))
    signer.add_auth(request)


def enter_api(request, credentials):
    family = authentication.family_of(request)
    claim = authentication.claim_api(request, credentials, family)
    return authentication.authenticate_api(claim, request.body, family)


def refusal(function, *arguments) -> AwsError:
    with pytest.raises(AwsError) as caught:
        function(*arguments)
    return caught.value


def test_a_signed_request_is_let_in(credentials, keys):
    entered = enter_api(api_request(keys), credentials)
    assert entered.caller.arn == "arn:aws:sts::000000000000:assumed-role/ClaryExecutionRole/clary"
    assert entered.caller.region == "us-east-1"
    assert entered.caller.job_name is None


def test_the_callers_region_is_that_of_the_signature(credentials, keys):
    request = AWSRequest("POST", HOST + "/", data=b"{}", headers=dict(JSON))
    SigV4Auth(keys, "sagemaker", "eu-central-1").add_auth(request)
    assert enter_api(received(request), credentials).caller.region == "eu-central-1"


@pytest.mark.parametrize(
    "path",
    [
        "/endpoints/a-b/invocations",
        "/FeatureGroup/x%2Fy",
        "/a%20b//c/./d/../e",
        "/x?b=2&a=1&a=0",
        "/x?q=a%2Bb%20c&empty=",
    ],
)
def test_paths_and_queries_are_canonical(credentials, keys, path):
    request = api_request(keys, path=path, headers={"Content-Type": "application/json"}, method="GET", body=b"")
    enter_api(request, credentials)


def test_a_tampered_body_is_refused(credentials, keys):
    request = api_request(keys)
    tampered = WireRequest(request.method, request.path, request.query, request.headers, b'{"MaxResults": 1}')
    error = refusal(enter_api, tampered, credentials)
    assert (error.code, error.status) == ("InvalidSignatureException", 400)
    assert error.message.startswith("The request signature we calculated does not match the signature you provided.")


@pytest.mark.parametrize(
    ("service", "headers", "body", "path", "code", "status"),
    [
        ("sagemaker", JSON, b"{}", "/", "InvalidSignatureException", 400),
        ("sts", FORM, b"Action=GetCallerIdentity&Version=2011-06-15", "/", "SignatureDoesNotMatch", 403),
        ("sagemaker", {}, b"x", "/endpoints/e/invocations", "InvalidSignatureException", 403),
    ],
)
def test_a_wrong_secret_is_told_in_the_services_words(credentials, service, headers, body, path, code, status):
    keys = Credentials(credentials.root.access_key, "wrong")
    request = api_request(keys, service=service, headers=headers, body=body, path=path)
    error = refusal(enter_api, request, credentials)
    assert (error.code, error.status) == (code, status)


@pytest.mark.parametrize(
    ("service", "headers", "body", "code"),
    [
        ("sagemaker", JSON, b"{}", "UnrecognizedClientException"),
        ("sts", FORM, b"Action=GetCallerIdentity&Version=2011-06-15", "InvalidClientTokenId"),
    ],
)
def test_an_unknown_key_is_told_in_the_services_words(credentials, service, headers, body, code):
    request = api_request(Credentials("AKIANOBODY", "x"), service=service, headers=headers, body=body)
    error = refusal(enter_api, request, credentials)
    assert (error.code, error.message) == (code, "The security token included in the request is invalid.")


@pytest.mark.parametrize(("minutes", "word"), [(-6, "Signature expired: "), (6, "Signature not yet current: ")])
def test_a_clock_that_is_off_is_told(credentials, keys, monkeypatch, minutes, word):
    at = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    error = refusal(enter_api, api_request(keys, at=at, monkeypatch=monkeypatch), credentials)
    assert error.code == "InvalidSignatureException"
    assert error.message.startswith(word + at.strftime("%Y%m%dT%H%M%SZ"))


def test_four_minutes_are_tolerated(credentials, keys, monkeypatch):
    at = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=4)
    enter_api(api_request(keys, at=at, monkeypatch=monkeypatch), credentials)


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        (JSON, b"{}", "MissingAuthenticationTokenException"),
        (FORM, b"Action=GetCallerIdentity&Version=2011-06-15", "MissingAuthenticationToken"),
    ],
)
def test_an_unsigned_request_is_refused(credentials, headers, body, code):
    request = WireRequest("POST", "/", "", {name.lower(): value for name, value in headers.items()}, body)
    assert refusal(enter_api, request, credentials).code == code


@pytest.mark.parametrize(
    "authorization",
    [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x",
        "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/sagemaker/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 =,=,=",
        "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/sagemaker/aws4_request, SignedHeaders=;, Signature=é",
    ],
)
def test_a_broken_authorization_header_is_refused(credentials, authorization):
    headers = {
        "x-amz-target": "SageMaker.ListTrainingJobs",
        "authorization": authorization,
        "x-amz-date": "20260101T000000Z",
    }
    error = refusal(enter_api, WireRequest("POST", "/", "", headers, b"{}"), credentials)
    assert error.code in ("IncompleteSignatureException", "UnrecognizedClientException")


def test_the_target_must_be_signed(credentials, keys):
    request = api_request(keys, headers={"Content-Type": "application/x-amz-json-1.1"})
    headers = {**request.headers, "x-amz-target": "SageMaker.DeleteTrainingJob"}
    error = refusal(enter_api, WireRequest("POST", "/", "", headers, request.body), credentials)
    assert error.code == "InvalidSignatureException"


def test_temporary_credentials_speak_as_their_role(credentials):
    issued = credentials.issue("arn:aws:sts::123456789012:assumed-role/Team/me", dt.timedelta(hours=1), job_name="j")
    keys = Credentials(issued.access_key, issued.secret_key, issued.session_token)
    caller = enter_api(api_request(keys), credentials).caller
    assert caller.arn == "arn:aws:sts::123456789012:assumed-role/Team/me"
    assert caller.account_id == "123456789012"
    assert caller.user_id.endswith(":me")
    assert caller.job_name == "j"


def test_temporary_credentials_outlive_the_server(credentials, tmp_path):
    issued = credentials.issue("arn:aws:sts::123456789012:assumed-role/Team/me", dt.timedelta(hours=1))
    home = credentials._settings.home
    again = CredentialStore(home, Settings(home=home))
    secret, _ = again.lookup(issued.access_key, issued.session_token)
    assert secret == issued.secret_key


def test_expired_credentials_are_refused(credentials):
    issued = credentials.issue("arn:aws:sts::000000000000:assumed-role/R/s", dt.timedelta(seconds=-1))
    keys = Credentials(issued.access_key, issued.secret_key, issued.session_token)
    assert refusal(enter_api, api_request(keys), credentials).code == "ExpiredTokenException"
    sts = api_request(keys, service="sts", headers=FORM, body=b"Action=GetCallerIdentity&Version=2011-06-15")
    assert refusal(enter_api, sts, credentials).code == "ExpiredToken"


@pytest.mark.parametrize("spoil", [lambda t: t[:-4] + "AAAA", lambda t: "é" + t, lambda t: "x", lambda t: t[8:]])
def test_a_made_up_session_token_is_refused(credentials, spoil):
    issued = credentials.issue("arn:aws:sts::000000000000:assumed-role/R/s", dt.timedelta(hours=1))
    keys = Credentials(issued.access_key, issued.secret_key, issued.session_token)
    request = api_request(keys)
    headers = {**request.headers, "x-amz-security-token": spoil(issued.session_token)}
    error = refusal(enter_api, WireRequest("POST", "/", "", headers, b"{}"), credentials)
    assert error.code == "UnrecognizedClientException"


def test_another_keys_token_is_refused(credentials):
    one = credentials.issue("arn:aws:sts::000000000000:assumed-role/R/s", dt.timedelta(hours=1))
    other = credentials.issue("arn:aws:sts::000000000000:assumed-role/R/t", dt.timedelta(hours=1))
    keys = Credentials(one.access_key, one.secret_key, other.session_token)
    assert refusal(enter_api, api_request(keys), credentials).code == "UnrecognizedClientException"


def test_a_presigned_api_request_is_let_in(credentials, keys):
    request = AWSRequest("GET", HOST + "/?Action=GetCallerIdentity&Version=2011-06-15")
    SigV4QueryAuth(keys, "sts", "us-east-1", expires=60).add_auth(request)
    assert enter_api(received(request), credentials).presigned


# S3


def s3_request(
    keys, signer=S3SigV4Auth, *, path="/bucket/a%20key%2B~", method="PUT", body=b"data", headers=(), **extra
):
    request = AWSRequest(method, HOST + path, data=body, headers=dict(headers))
    signer(keys, "s3", "us-east-1", **extra).add_auth(request)
    return received(request)


def test_an_s3_request_is_known_by_its_signature(keys):
    assert authentication.family_of(s3_request(keys)) == "s3"
    assert authentication.family_of(s3_request(keys, S3SigV4QueryAuth, method="GET", body=b"")) == "s3"
    assert authentication.family_of(api_request(keys)) == "json"


@pytest.mark.parametrize(
    "path", ["/b/a%20key", "/b/x//y/../z", "/b/%C3%A9", "/b/k?uploadId=a%2Bb%3D&partNumber=1", "/b?list-type=2&prefix="]
)
def test_s3_paths_are_not_normalized(credentials, keys, path):
    entered = authentication.authenticate_s3(s3_request(keys, path=path), credentials)
    assert entered.payload in ("UNSIGNED-PAYLOAD", hashlib.sha256(b"data").hexdigest())


def test_the_claimed_payload_hash_is_for_the_stream_to_check(credentials, keys):
    entered = authentication.authenticate_s3(s3_request(keys), credentials)
    assert entered.payload == hashlib.sha256(b"data").hexdigest()
    assert entered.scope.endswith("/us-east-1/s3/aws4_request")


def test_a_streaming_upload_shows_its_seed_and_key(credentials, keys):
    request = AWSRequest(
        "PUT", HOST + "/b/k", data=b"", headers={"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    )
    signer = S3SigV4Auth(keys, "s3", "us-east-1")
    signer.payload = lambda _: "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    signer.add_auth(request)
    entered = authentication.authenticate_s3(received(request), credentials)
    assert entered.payload == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    assert entered.signature in received(request).headers["authorization"]
    assert len(entered.signing_key) == 32


def test_an_unsigned_amz_header_is_refused_by_s3(credentials, keys):
    request = s3_request(keys)
    headers = {**request.headers, "x-amz-acl": "public-read"}
    error = refusal(authentication.authenticate_s3, WireRequest("PUT", request.path, "", headers), credentials)
    assert error.code == "AccessDenied"
    assert error.fields["HeadersNotSigned"] == "x-amz-acl"


def test_s3_has_words_of_its_own(credentials, keys, monkeypatch):
    enter = authentication.authenticate_s3
    wrong = s3_request(Credentials(credentials.root.access_key, "wrong"))
    assert refusal(enter, wrong, credentials).code == "SignatureDoesNotMatch"
    assert refusal(enter, s3_request(Credentials("AKIANOBODY", "x")), credentials).code == "InvalidAccessKeyId"
    assert refusal(enter, WireRequest("GET", "/b/k", "", {}), credentials).code == "AccessDenied"
    old = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=16)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: old.replace(tzinfo=None))
    assert refusal(enter, s3_request(keys), credentials).code == "RequestTimeTooSkewed"


@pytest.mark.parametrize("version", ["s3", "s3v4"])
@pytest.mark.parametrize("temporary", [False, True])
def test_links_from_boto3_are_let_in(credentials, version, temporary):
    root = credentials.root
    token = None
    access_key, secret_key = root.access_key, root.secret_key
    if temporary:
        issued = credentials.issue("arn:aws:sts::000000000000:assumed-role/R/s", dt.timedelta(hours=1))
        access_key, secret_key, token = issued.access_key, issued.secret_key, issued.session_token
    client = boto3.client(
        "s3",
        endpoint_url=HOST,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=token,
        config=Config(signature_version=version),
    )
    params = {"Bucket": "b", "Key": "a key/ü+~", "ResponseContentType": "text/plain", "VersionId": "1"}
    url = urlsplit(client.generate_presigned_url("get_object", Params=params))
    request = WireRequest("GET", url.path, url.query, {"host": url.netloc})
    assert authentication.family_of(request) == "s3"
    assert authentication.authenticate_s3(request, credentials).presigned
    assert authentication.authenticate_s3(request, credentials).payload == "UNSIGNED-PAYLOAD"
    other = WireRequest("GET", url.path + "x", url.query, {"host": url.netloc})
    assert refusal(authentication.authenticate_s3, other, credentials).code == "SignatureDoesNotMatch"


def test_an_expired_link_is_refused(credentials, keys, monkeypatch):
    request = AWSRequest("GET", HOST + "/b/k")
    HmacV1QueryAuth(keys, expires=-10).add_auth(request)
    error = refusal(authentication.authenticate_s3, received(request), credentials)
    assert (error.code, error.message) == ("AccessDenied", "Request has expired")
    old = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=100)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: old.replace(tzinfo=None))
    error = refusal(
        authentication.authenticate_s3,
        s3_request(keys, S3SigV4QueryAuth, method="GET", body=b"", expires=60),
        credentials,
    )
    assert (error.code, error.message) == ("AccessDenied", "Request has expired")


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256",
        "X-Amz-Signature=1",
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fb%2Fc%2Fs3%2Faws4_request&X-Amz-Date=x"
        "&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=1",
        "AWSAccessKeyId=x&Signature=y",
        "AWSAccessKeyId=x&Signature=y&Expires=never",
    ],
)
def test_a_broken_link_is_refused(credentials, query):
    error = refusal(authentication.authenticate_s3, WireRequest("GET", "/b/k", query, {"host": "h"}), credentials)
    assert error.code == "AuthorizationQueryParametersError"


def test_a_refusal_of_s3_is_xml(credentials):
    request = WireRequest("GET", "/b/k", "", {})
    error = refusal(authentication.authenticate_s3, request, credentials)
    response = authentication.refusal(error, request, "s3")
    assert response.status == 403
    assert b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message>" in response.body
    assert authentication.refusal(error, WireRequest("HEAD", "/b/k", "", {}), "s3").body == b""

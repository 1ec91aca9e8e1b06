"""An S3 request as it came, and as it goes on to the store."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from clary.front.s3_permissions import Place
from clary.storage import signing

KMS_METADATA = "x-amz-meta-clary-kms-key"
"""Where the key id of an object is kept that was written with aws:kms; hidden from clients."""

_SSE = "x-amz-server-side-encryption"
_OF_ONE_CONNECTION = """
    host authorization date connection keep-alive te trailer transfer-encoding upgrade expect accept-encoding user-agent
    content-length x-amz-date x-amz-content-sha256 x-amz-security-token x-amz-decoded-content-length x-amz-trailer
    x-amz-sdk-checksum-algorithm x-amz-expected-bucket-owner x-amz-source-expected-bucket-owner x-amz-user-agent
    amz-sdk-invocation-id amz-sdk-request proxy-connection
"""
_OF_A_SIGNATURE = """
    x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-signature x-amz-security-token
    x-amz-content-sha256 awsaccesskeyid signature expires
"""
_NOT_FORWARDED = frozenset(_OF_ONE_CONNECTION.split())
_SIGNATURE_PARAMETERS = frozenset(_OF_A_SIGNATURE.split())


@dataclass(frozen=True)
class S3Request:
    """A request: `bucket` and `key` decoded and possibly empty, `parameters` without those of the signature."""

    method: str
    path: str  # in normal form
    bucket: str
    key: str
    parameters: Mapping[str, str | None]
    headers: Mapping[str, str]  # names in lower case

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> S3Request:
        """From an ASGI scope. Headers that a link carries as parameters become headers."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        parameters: dict[str, str | None] = {}
        presigned = False
        for pair in scope["query_string"].decode("latin-1").split("&"):
            name, equals, value = pair.partition("=")
            name, lower = unquote(name), unquote(name).lower()
            if lower in _SIGNATURE_PARAMETERS:
                presigned = True
            elif lower.startswith("x-amz-"):
                headers.setdefault(lower, unquote(value, "latin-1"))
            elif name:
                parameters[name] = unquote(value) if equals else None
        if presigned:
            headers.pop("authorization", None)
        raw = scope.get("raw_path") or scope["path"].encode()
        path = signing.normal_path(raw.decode("latin-1"))
        bucket, _, key = unquote(path.removeprefix("/")).partition("/")
        return cls(scope["method"], path, bucket, key, parameters, headers)

    @property
    def kms_key(self) -> str | None:
        """The key that the object is to be encrypted with; empty when the default is wanted, None for no KMS."""
        if self.headers.get(_SSE, "").startswith("aws:kms"):
            return self.headers.get(f"{_SSE}-aws-kms-key-id", "")
        return None

    @property
    def expected_owners(self) -> list[str]:
        """The accounts that the client expects to own what it touches."""
        names = ("x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner")
        return [self.headers[name] for name in names if name in self.headers]

    @property
    def target(self) -> str:
        """Path and query, in the form that is signed for the store."""
        query = signing.query_string(self.parameters)
        return f"{self.path}?{query}" if query else self.path

    def forwarded_headers(self) -> dict[str, str]:
        """The headers that the store gets, but for its own signature and the body's."""
        headers = {name: value for name, value in self.headers.items() if name not in _NOT_FORWARDED}
        encodings = [part.strip() for part in headers.pop("content-encoding", "").split(",")]
        if kept := [part for part in encodings if part and part != "aws-chunked"]:
            headers["content-encoding"] = ",".join(kept)
        creates_object = self.key and (
            (self.method == "PUT" and not self.parameters) or (self.method == "POST" and "uploads" in self.parameters)
        )
        if creates_object and "x-amz-copy-source" not in headers:
            headers.setdefault("content-type", "binary/octet-stream")  # S3's default; the store would guess
        return headers

    def with_store_encryption(self, default_key: str) -> S3Request:
        """The same request with the store's own encryption in place of KMS, the key's id kept as metadata."""
        headers = {name: value for name, value in self.headers.items() if not name.startswith(f"{_SSE}-")}
        headers[_SSE] = "AES256"
        if self.method == "PUT" and "partNumber" in self.parameters:
            del headers[_SSE]
        headers[KMS_METADATA] = self.kms_key or default_key
        return replace(self, headers=headers)

    def with_store_encryption_rules(self, rules: bytes) -> tuple[S3Request, bytes]:
        """The same PutBucketEncryption with the store's own encryption in place of KMS, and its new body."""
        rules = re.sub(rb"aws:kms(:dsse)?", b"AES256", rules)
        rules = re.sub(rb"<KMSMasterKeyID>.*?</KMSMasterKeyID>", b"", rules, flags=re.DOTALL)
        checks = ("content-md5", "x-amz-checksum-")  # of the old body
        headers = {name: value for name, value in self.headers.items() if not name.startswith(checks)}
        return replace(self, headers=headers), rules

    def places(self) -> Iterator[Place]:
        """What the request touches, but for the keys that are named in its body."""
        if self.key:
            actions = {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}
            yield Place(f"s3:{actions.get(self.method, 'PutObject')}", self.bucket, self.key)
        elif self.bucket and self.method in ("GET", "HEAD"):
            yield Place("s3:ListBucket", self.bucket, self.parameters.get("prefix") or "")
        if source := self.headers.get("x-amz-copy-source"):
            bucket, _, key = unquote(source.partition("?versionId=")[0]).removeprefix("/").partition("/")
            yield Place("s3:GetObject", bucket, key)


def default_kms_key(region: str, account: str) -> str:
    """The ARN of the key that stands for S3's own, where a client asks for aws:kms and names none."""
    return f"arn:aws:kms:{region}:{account}:key/{uuid.uuid5(uuid.NAMESPACE_URL, f'clary:{account}:{region}')}"


def deleted_keys(body: bytes) -> list[str]:
    """The keys in the body of DeleteObjects; none if it is malformed, which the store will say itself."""
    try:
        document = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return []
    return [node.text or "" for node in document.iter() if node.tag.rpartition("}")[2] == "Key"]


def encryption_response(headers: list[tuple[bytes, bytes]], key: str | None) -> list[tuple[bytes, bytes]]:
    """A response's headers, with aws:kms where the object was written so: by this request (`key`) or an earlier one."""
    kept: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name == KMS_METADATA.encode():
            key = value.decode("latin-1")
        else:
            kept.append((name, value))
    if key is None:
        return kept
    kept = [(name, value) for name, value in kept if not name.startswith(_SSE.encode())]
    return [*kept, (_SSE.encode(), b"aws:kms"), (f"{_SSE}-aws-kms-key-id".encode(), key.encode("latin-1"))]

"""Settings of buckets that the embedded store does not know, answered here as S3 answers.

The store would take such a request for one about the bucket itself: `PUT ?logging` made a bucket and `DELETE ?website`
deleted one. What can be said truly is said: every request to this store is signed, so public access is blocked, as on
AWS where the whole account blocks it; and of what the store does not do, nothing is set.
"""

from __future__ import annotations

from xml.etree import ElementTree

from clary.front.s3_errors import S3Error
from clary.front.s3_request import S3Request

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_BLOCK = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_PUBLIC_ACCESS = "publicAccessBlock"
# By the parameter that names them. Of the first kind a bucket has one, of the second any number, by an id.
_SINGLE = ("accelerate", "logging", "notification", "replication", "website")
_SEVERAL = ("analytics", "intelligent-tiering", "inventory", "metrics")
_UNKNOWN_TO_STORE = (*_SINGLE, *_SEVERAL, "abac", "metadataConfiguration", "metadataTable")


def name_of(request: S3Request) -> str | None:
    """The setting that the request is about, if it is answered here."""
    if not request.bucket or request.key:
        return None
    if _PUBLIC_ACCESS in request.parameters:
        return _PUBLIC_ACCESS
    if request.method not in ("PUT", "POST", "DELETE"):
        return None  # the store tells truly that there is none
    return next((name for name in _UNKNOWN_TO_STORE if name in request.parameters), None)


def answer(method: str, name: str, body: bytes) -> tuple[int, bytes]:
    """Status and document for a request about the setting of a bucket that is there.

    Raises:
        S3Error: it cannot be set, or there is none.
    """
    if name == _PUBLIC_ACCESS:
        return _public_access(method, body)
    if method == "DELETE" and name in _SEVERAL:
        raise S3Error("NoSuchConfiguration", "The specified configuration does not exist.", 404)
    if method == "DELETE":
        return 204, b""
    if _sets_nothing(name, _parsed(body)):
        return 200, b""
    raise S3Error("NotImplemented", f"The store of Clary has no {name} of buckets: leave this setting out.", 501)


def _public_access(method: str, body: bytes) -> tuple[int, bytes]:
    if method == "GET":
        blocks = "".join(f"<{name}>true</{name}>" for name in _BLOCK)
        root = "PublicAccessBlockConfiguration"
        return 200, f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{_NAMESPACE}">{blocks}</{root}>'.encode()
    if method == "PUT":
        given = {node.tag.rpartition("}")[2]: (node.text or "").strip().lower() for node in _parsed(body)}
        if all(given.get(name) == "true" for name in _BLOCK):
            return 200, b""
    raise S3Error(
        "AccessDenied",
        "Public access is blocked for the whole account: every request to Clary is signed. "
        f"Expected true for {', '.join(_BLOCK)}; to share an object, presign its URL.",
        403,
    )


def _sets_nothing(name: str, document: ElementTree.Element) -> bool:
    """Whether a configuration asks for what is so anyway."""
    if name == "accelerate":
        return [node.text for node in document] == ["Suspended"]
    return name in ("logging", "notification") and len(document) == 0


def _parsed(body: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError:
        message = "The XML you provided was not well-formed or did not validate against our published schema"
        raise S3Error("MalformedXML", message, 400) from None

"""Values, requests and replies made from the service models, with botocore's own serializers and parsers."""

from __future__ import annotations

import datetime as dt
import random
import re
import re._constants as sc
import re._parser as regex_parser
from io import BytesIO
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from clary.wire.constraints import matcher
from clary.wire.messages import Caller, WireRequest, WireResponse
from clary.wire.services import BY_NAME, model

_MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


class Sampler:
    """Makes values that satisfy shapes, the same ones for the same seed. No structure is empty: forms cannot say so."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, shape: Any, depth: int = 0) -> Any:
        return getattr(self, shape.type_name)(shape, depth)

    def structure(self, shape: Any, depth: int = 0) -> Any:
        if shape.is_document_type:
            return {"any": ["thing", 1, None]}
        names = list(shape.members)
        if shape.is_tagged_union:
            names = [self.random.choice(names)]
        elif depth > 3:
            names = list(shape.required_members) or names[:1]
        else:
            optional = [name for name in names if name not in shape.required_members]
            chosen = self.random.sample(optional, k=min(len(optional), self.random.randint(1, 6)))
            names = [name for name in names if name in shape.required_members or name in chosen]
        return {name: self.value(shape.members[name], depth + 1) for name in names}

    def list(self, shape: Any, depth: int = 0) -> Any:
        least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 3)
        if depth > 4:
            most = least
        return [
            self.value(shape.member, depth + 1) for _ in range(self.random.randint(least, max(least, min(most, 3))))
        ]

    def map(self, shape: Any, depth: int = 0) -> Any:
        least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 3)
        keys: dict[str, None] = {}
        for _ in range(self.random.randint(max(least, 1), max(least, 1, min(most, 2)))):
            keys[self.value(shape.key, depth + 1)] = None
        for index in range(least - len(keys)):
            keys[f"key{index}"] = None
        return {key: self.value(shape.value, depth + 1) for key in keys}

    def string(self, shape: Any, depth: int = 0) -> str:
        metadata = shape.metadata
        if "enum" in metadata:
            return self.random.choice(metadata["enum"])
        least, most = metadata.get("min", 0), metadata.get("max", 2048)
        if "pattern" in metadata:
            for _ in range(20):
                text = self._matching(metadata["pattern"])[:most]
                if len(text) >= least and matcher(metadata["pattern"])(text):
                    return text
            texts = ("arn:aws:iam::000000000000:role/a", "a" * max(least, 1), "7" * max(least, 1), "1.2.3", "s3://b/k")
            for text in texts:
                if least <= len(text) <= most and matcher(metadata["pattern"])(text):
                    return text
        return "a" * max(least, min(most, 5))

    def integer(self, shape: Any, depth: int = 0) -> int:
        least = shape.metadata.get("min", 0)
        return int(self.random.randint(int(least), int(min(shape.metadata.get("max", 1000), 2**31 - 1))))

    long = integer

    def double(self, shape: Any, depth: int = 0) -> float:
        return float(shape.metadata.get("min", 0)) + 0.25

    float = double

    def boolean(self, shape: Any, depth: int = 0) -> bool:
        return self.random.random() < 0.5

    def timestamp(self, shape: Any, depth: int = 0) -> dt.datetime:
        return _MOMENT + dt.timedelta(seconds=self.random.randint(0, 10**6))

    def blob(self, shape: Any, depth: int = 0) -> bytes:
        return bytes(self.random.randrange(256) for _ in range(8))

    def _matching(self, pattern: str) -> str:
        try:
            return self._text(regex_parser.parse(pattern))
        except re.error:  # a pattern of Java's that Python cannot read
            return "a"

    def _text(self, parsed: Any) -> str:
        return "".join(self._piece(kind, argument) for kind, argument in parsed)

    def _piece(self, kind: Any, argument: Any) -> str:
        if kind is sc.LITERAL:
            return chr(argument)
        if kind in (sc.ANY, sc.NOT_LITERAL):
            return self.random.choice("xyz")
        if kind is sc.IN:
            return self._of_class(argument)
        if kind in (sc.MAX_REPEAT, sc.MIN_REPEAT):
            least, most, inner = argument
            return "".join(self._text(inner) for _ in range(self.random.randint(least, min(most, least + 3))))
        if kind is sc.SUBPATTERN:
            return self._text(argument[3])
        if kind is sc.BRANCH:
            return self._text(self.random.choice(argument[1]))
        return ""

    def _of_class(self, items: Any) -> str:
        if items[0][0] is sc.NEGATE:
            return "x"
        kind, argument = self.random.choice(items)
        if kind is sc.LITERAL:
            return chr(argument)
        if kind is sc.RANGE:
            first = max(argument[0], min(argument[1], 0x20))
            return chr(self.random.randint(first, min(argument[1], first + 25)))
        return "7" if "CATEGORY_DIGIT" in str(argument) else " " if str(argument) == "CATEGORY_SPACE" else "w"


class Wire:
    """What a client of AWS puts on the wire, and reads from it."""

    def request(self, service: str, operation: str, params: dict[str, Any], protocol: str | None = None) -> WireRequest:
        """The request that botocore would send, unsigned."""
        protocol = protocol or BY_NAME[service].protocol
        serializer = create_serializer(protocol, include_validation=False)
        made = serializer.serialize_to_request(params, model(service).operation_model(operation))
        headers = {name.lower(): str(value) for name, value in made["headers"].items()}
        path, _, fixed = made["url_path"].partition("?")
        query = "&".join(part for part in (fixed, _form(made["query_string"])) if part)
        body = made["body"]
        if isinstance(body, dict):
            body = _form(body)
        if hasattr(body, "read"):
            body = body.read()
        if isinstance(body, str):
            body = body.encode()
        return WireRequest(made["method"], urlsplit(path).path, query, headers, bytes(body or b""))

    def reply(
        self, service: str, operation: str, response: WireResponse, protocol: str | None = None
    ) -> dict[str, Any]:
        """What botocore makes of a response."""
        parser = create_parser(protocol or BY_NAME[service].protocol)
        raw = {"headers": _Headers(response.headers), "status_code": response.status, "body": response.body}
        shape = model(service).operation_model(operation).output_shape
        payload = shape.serialization.get("payload") if shape is not None and response.status < 300 else None
        if payload:
            raw["body"] = BytesIO(response.body)
        parsed = parser.parse(raw, shape)
        if payload:
            parsed[payload] = parsed[payload].read()
        return parsed


class _Headers(dict[str, str]):
    """Header names in any case, as the HTTP library gives them to botocore."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())


def _form(values: Any) -> str:
    return urlencode(values, doseq=True) if values else ""


@pytest.fixture(scope="session")
def wire() -> Wire:
    return Wire()


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(20260102)


@pytest.fixture(scope="session")
def make_sampler() -> type[Sampler]:
    return Sampler


@pytest.fixture(scope="session")
def person() -> Caller:
    return Caller(
        access_key="AKIATEST",
        arn="arn:aws:sts::000000000000:assumed-role/ClaryExecutionRole/clary",
        user_id="AROATEST:clary",
        account_id="000000000000",
        region="us-east-1",
    )

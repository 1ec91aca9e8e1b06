"""Errors as AWS reports them.

AwsError                        any error that a client sees, by code, status and message
├── ValidationError             ValidationException: the request is wrong (400)
├── ResourceNotFound            ResourceNotFound / ResourceNotFoundException (400)
├── ResourceInUse               the name is taken (400)
├── ResourceLimitExceeded       a quota (400)
├── AccessDenied                AccessDeniedException (400)
├── UnsupportedOperation        an operation of AWS that Clary does not implement (400)
└── UnsupportedService          a service of AWS that Clary does not stand in for (400)
"""

from __future__ import annotations

from typing import Any


class AwsError(Exception):
    """An error that is the answer to a request.

    Args:
        code: AWS's error code, for instance "ValidationException".
        message: the text, in AWS's own form.
        status: the HTTP status.
        fields: further members of the error's shape.
    """

    def __init__(self, code: str, message: str, *, status: int = 400, fields: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields or {}


class ValidationError(AwsError):
    def __init__(self, message: str, *, code: str = "ValidationException") -> None:
        super().__init__(code, message)


class ResourceNotFound(AwsError):
    def __init__(self, message: str, *, code: str = "ResourceNotFound") -> None:
        super().__init__(code, message)


class ResourceInUse(AwsError):
    def __init__(self, message: str, *, code: str = "ResourceInUse") -> None:
        super().__init__(code, message)


class ResourceLimitExceeded(AwsError):
    def __init__(self, message: str, *, code: str = "ResourceLimitExceeded") -> None:
        super().__init__(code, message)


class AccessDenied(AwsError):
    def __init__(self, message: str, *, code: str = "AccessDeniedException", status: int = 400) -> None:
        super().__init__(code, message, status=status)


class UnsupportedOperation(AwsError):
    def __init__(self, service: str, operation: str) -> None:
        super().__init__(
            "UnsupportedOperation",
            f"Clary does not implement the operation {operation} of {service}. "
            "docs/reference/compatibility.md lists those that it does.",
        )


class UnsupportedService(AwsError):
    def __init__(self, service: str, operation: str, offered: str) -> None:
        super().__init__(
            "UnsupportedOperation",
            f"Clary does not stand in for the AWS service '{service}', so it cannot answer {operation}. "
            f"It stands in for {offered}. Leave this call out, or send it elsewhere with an endpoint_url of its own.",
        )

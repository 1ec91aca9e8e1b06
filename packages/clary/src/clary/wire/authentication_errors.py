"""Failed authentication in AWS's words: each family of services has codes of its own."""

from __future__ import annotations

from typing import Literal

from clary.wire.errors import AwsError
from clary.wire.sigv4 import AuthenticationFailed, Failure

Family = Literal["json", "rest-json", "query", "s3"]

_WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key"
    " and signing method. Consult the service documentation for details."
)
_S3_WRONG_SIGNATURE = (
    "The request signature we calculated does not match the signature you provided. Check your key and signing method."
)
_UNSIGNED_HEADER = "{detail} must be a 'SignedHeader' in the AWS Authorization."

# Per failure: the code and text in JSON protocols, then those in the Query protocol. "{detail}" is the failure's own.
_API: dict[Failure, tuple[str, str, str, str]] = {
    Failure.MISSING: (
        "MissingAuthenticationTokenException",
        "Missing Authentication Token",
        "MissingAuthenticationToken",
        "Request is missing Authentication Token",
    ),
    Failure.INCOMPLETE: ("IncompleteSignatureException", "{detail}", "IncompleteSignature", "{detail}"),
    Failure.UNSUPPORTED: (
        "IncompleteSignatureException",
        "Unsupported authorization type '{detail}': sign requests with AWS4-HMAC-SHA256.",
        "IncompleteSignature",
        "Unsupported authorization type '{detail}': sign requests with AWS4-HMAC-SHA256.",
    ),
    Failure.UNKNOWN_KEY: (
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
    ),
    Failure.BAD_TOKEN: (
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
    ),
    Failure.EXPIRED_TOKEN: (
        "ExpiredTokenException",
        "The security token included in the request is expired",
        "ExpiredToken",
        "The security token included in the request is expired",
    ),
    Failure.WRONG_SIGNATURE: (
        "InvalidSignatureException",
        _WRONG_SIGNATURE,
        "SignatureDoesNotMatch",
        _WRONG_SIGNATURE,
    ),
    Failure.UNSIGNED_HEADER: (
        "InvalidSignatureException",
        _UNSIGNED_HEADER,
        "SignatureDoesNotMatch",
        _UNSIGNED_HEADER,
    ),
    Failure.SKEWED: ("InvalidSignatureException", "{detail}", "SignatureDoesNotMatch", "{detail}"),
    Failure.LINK_MALFORMED: ("IncompleteSignatureException", "{detail}", "IncompleteSignature", "{detail}"),
    Failure.LINK_EXPIRED: (
        "InvalidSignatureException",
        "Signature expired: the presigned URL is no longer valid",
        "SignatureDoesNotMatch",
        "Signature expired: the presigned URL is no longer valid",
    ),
    Failure.LINK_NOT_YET_VALID: (
        "InvalidSignatureException",
        "Signature not yet current: {detail}",
        "SignatureDoesNotMatch",
        "Signature not yet current: {detail}",
    ),
}

_S3: dict[Failure, tuple[str, str, int]] = {
    Failure.MISSING: ("AccessDenied", "Access Denied", 403),
    Failure.INCOMPLETE: ("AuthorizationHeaderMalformed", "The authorization header is malformed; {detail}", 400),
    Failure.UNSUPPORTED: (
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        400,
    ),
    Failure.UNKNOWN_KEY: (
        "InvalidAccessKeyId",
        "The AWS Access Key Id you provided does not exist in our records.",
        403,
    ),
    Failure.BAD_TOKEN: ("InvalidToken", "The provided token is malformed or otherwise invalid.", 400),
    Failure.EXPIRED_TOKEN: ("ExpiredToken", "The provided token has expired.", 400),
    Failure.WRONG_SIGNATURE: ("SignatureDoesNotMatch", _S3_WRONG_SIGNATURE, 403),
    Failure.UNSIGNED_HEADER: (
        "AccessDenied",
        "There were headers present in the request which were not signed",
        403,
    ),
    Failure.SKEWED: (
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
        403,
    ),
    Failure.LINK_MALFORMED: ("AuthorizationQueryParametersError", "{detail}", 400),
    Failure.LINK_EXPIRED: ("AccessDenied", "Request has expired", 403),
    Failure.LINK_NOT_YET_VALID: ("AccessDenied", "Request is not valid yet", 403),
}


def authentication_error(failed: AuthenticationFailed, family: Family) -> AwsError:
    """AWS's error for a failed authentication: JSON protocols answer 400, the others mostly 403."""
    if family == "s3":
        code, text, status = _S3[failed.failure]
        return AwsError(code, text.format(detail=failed.detail), status=status, fields=failed.fields)
    json_code, json_text, query_code, query_text = _API[failed.failure]
    if family == "query":
        return AwsError(query_code, query_text.format(detail=failed.detail), status=403)
    return AwsError(json_code, json_text.format(detail=failed.detail), status=400 if family == "json" else 403)

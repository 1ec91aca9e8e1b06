"""AWS credentials of the job: from its environment or from the container credentials address."""

from __future__ import annotations

import json
import os

from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTAINER_HOST = "http://169.254.170.2"


class Credentials:
    """An access key with its secret and, for temporary ones, the session token."""

    def __init__(self, access_key: str, secret_key: str, session_token: str | None) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.session_token = session_token


def find(environ: Mapping[str, str]) -> Credentials:
    """The credentials that AWS's own clients would take here. Raises ClientError naming the variables when none are."""
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if access and secret:
        return Credentials(access, secret, environ.get("AWS_SESSION_TOKEN") or None)
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    address = _CONTAINER_HOST + relative if relative else environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if address:
        return _from_container(address, environ)
    raise ClientError(
        "The job's code lies in S3 but there are no credentials to read it. Expected AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_CONTAINER_CREDENTIALS_FULL_URI, in the environment."
    )


def _from_container(address: str, environ: Mapping[str, str]) -> Credentials:
    import urllib.error
    import urllib.request

    headers: dict[str, str] = {}
    token_file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    if token_file and os.path.exists(token_file):
        with open(token_file, encoding="ascii") as file:
            headers["Authorization"] = file.read().strip()
    elif environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        headers["Authorization"] = environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as response:
            found = json.load(response)
        return Credentials(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token"))
    except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
        raise ClientError("No credentials came from {}: {!r}".format(address, error)) from error

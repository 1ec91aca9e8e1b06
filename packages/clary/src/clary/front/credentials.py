"""Keys: the root keys made at first start, and temporary credentials that need no record.

A session token is a signed statement (who, until when, for which job) from which its secret key is derived, so
temporary credentials stay valid over restarts and any process that holds the home folder can check them.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import os
import secrets
import string
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import orjson

from clary.settings import DEFAULT_ROLE_NAME, Settings
from clary.wire.identity import account_of, session_user_id
from clary.wire.messages import Caller
from clary.wire.sigv4 import AuthenticationFailed, Failure

FILE_NAME = "credentials.json"
_ALPHABET = string.ascii_uppercase + "234567"


@dataclass(frozen=True)
class TemporaryCredentials:
    """Keys that end at `expiration`."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: dt.datetime


@dataclass(frozen=True)
class RootKeys:
    """The keys of the person who owns the home folder. `token_key` signs session tokens and never leaves the server."""

    access_key: str
    secret_key: str = field(repr=False)
    token_key: str = field(repr=False)


class CredentialStore:
    """Issues and looks up keys. Safe to share between threads and processes: all state is one file, written once."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.root = _load_or_create(home / FILE_NAME)
        self._settings = settings
        self._token_key = self.root.token_key.encode()
        role = f"arn:aws:sts::{settings.account_id}:assumed-role/{DEFAULT_ROLE_NAME}/clary"
        self._root_caller = Caller(
            access_key=self.root.access_key,
            arn=role,
            user_id=session_user_id(role),
            account_id=settings.account_id,
            region=settings.region,
        )
        self._read_token = lru_cache(maxsize=1024)(self._checked_token)

    @property
    def root_caller(self) -> Caller:
        """The person who owns the root keys."""
        return self._root_caller

    def issue(self, arn: str, duration: dt.timedelta, job_name: str | None = None) -> TemporaryCredentials:
        """New credentials.

        Args:
            arn: an assumed-role ARN, "arn:aws:sts::<account>:assumed-role/<role>/<session>".
            duration: how long they are valid; kept to the second.
            job_name: the job that they are for; such credentials may do less (`front.permissions`).
        """
        access_key = "ASIA" + "".join(secrets.choice(_ALPHABET) for _ in range(16))
        expiration = (dt.datetime.now(dt.UTC) + duration).replace(microsecond=0)
        statement = {"k": access_key, "a": arn, "e": int(expiration.timestamp()), "j": job_name}
        payload = orjson.dumps(statement)
        token = base64.urlsafe_b64encode(self._mac(b"token", payload) + payload).decode()
        return TemporaryCredentials(access_key, self._secret(payload), token, expiration)

    def lookup(self, access_key: str, session_token: str | None) -> tuple[str, Caller]:
        """The secret key of an access key, and whose it is.

        Raises:
            AuthenticationFailed: nobody has this key, or its session token is wrong or has expired.
        """
        if access_key == self.root.access_key:
            return self.root.secret_key, self._root_caller
        if not session_token:
            raise AuthenticationFailed(Failure.UNKNOWN_KEY, fields={"AWSAccessKeyId": access_key})
        secret_key, caller, expires = self._read_token(session_token)
        if not hmac.compare_digest(caller.access_key.encode(), access_key.encode("utf-8", "replace")):
            raise AuthenticationFailed(Failure.BAD_TOKEN)
        if dt.datetime.now(dt.UTC).timestamp() >= expires:
            raise AuthenticationFailed(Failure.EXPIRED_TOKEN, fields={"Token-0": session_token})
        return secret_key, caller

    def _checked_token(self, token: str) -> tuple[str, Caller, int]:
        try:
            content = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except ValueError:
            raise AuthenticationFailed(Failure.BAD_TOKEN) from None
        mac, payload = content[:32], content[32:]
        if not hmac.compare_digest(mac, self._mac(b"token", payload)):
            raise AuthenticationFailed(Failure.BAD_TOKEN)
        statement = orjson.loads(payload)
        arn: str = statement["a"]
        caller = Caller(
            access_key=statement["k"],
            arn=arn,
            user_id=session_user_id(arn),
            account_id=account_of(arn),
            region=self._settings.region,
            job_name=statement["j"],
        )
        return self._secret(payload), caller, statement["e"]

    def _secret(self, payload: bytes) -> str:
        return base64.b64encode(self._mac(b"secret", payload)[:30]).decode()

    def _mac(self, purpose: bytes, payload: bytes) -> bytes:
        return hmac.new(self._token_key, purpose + b"\0" + payload, hashlib.sha256).digest()


def _load_or_create(path: Path) -> RootKeys:
    """The keys in the file; made first when there is none. Of several processes at once, one makes them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = {
            "access_key": "AKIA" + "".join(secrets.choice(_ALPHABET) for _ in range(16)),
            "secret_key": secrets.token_urlsafe(30),
            "token_key": secrets.token_hex(32),
        }
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")  # mkstemp makes it 0600
        fresh = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(keys, option=orjson.OPT_INDENT_2))
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(fresh)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    content = orjson.loads(path.read_bytes())
    return RootKeys(content["access_key"], content["secret_key"], content["token_key"])

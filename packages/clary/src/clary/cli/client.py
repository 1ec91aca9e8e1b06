"""AWS clients for the server, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clary.cli.environment import access_to
from clary.cli.output import CliError
from clary.cli.server_process import RunningServer, require


def client(service: str, home: Path) -> Any:
    """A botocore client of one service of the server that runs for this home folder."""
    return client_of(service, require(home))


def client_of(service: str, server: RunningServer) -> Any:
    """A botocore client of one service of this server."""
    import botocore.session
    from botocore.config import Config

    access = access_to(server)
    return botocore.session.Session(profile=None).create_client(
        service,
        region_name=access.region,
        endpoint_url=access.url,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 2}, proxies={}),
    )


@contextmanager
def aws_errors() -> Generator[None]:
    """Turn what the server or the connection says into a `CliError`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        detail = error.response.get("Error", {})
        raise CliError(f"{detail.get('Message') or error} ({detail.get('Code')})") from None
    except BotoCoreError as error:
        raise CliError(f"The server did not answer: {error}", "See `clary status`.", exit_code=3) from None

"""docs/reference/compatibility.md, written from the code: `python -m clary.services.compatibility PATH`.

What is implemented is what is registered; what is not is the rest of botocore's model.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import clary.services
from clary.services import registry
from clary.wire.services import SERVICES, model

_INTRODUCTION = """\
# Compatibility

This page is written from the code by `make compatibility`: it lists what the server has functions for, and the rest
of AWS's own service models. An operation that is not implemented answers `UnsupportedOperation` and names itself.
The shapes, constraints and errors of every operation are those of botocore's models.

S3 is served by the object store behind the same port and is not listed here.

On a Ray cluster training jobs run on all machines; endpoints stay on the server's own. A job whose hosts are on several
machines cannot have `EnableNetworkIsolation`: it fails and says so.
"""


# Answered by the data plane, `clary.inference`, without a function in services.
_DATA_PLANE = {("sagemaker-runtime", "InvokeEndpoint"), ("sagemaker-runtime", "InvokeEndpointWithResponseStream")}


def page() -> str:
    """The whole page."""
    for module in pkgutil.iter_modules(clary.services.__path__, "clary.services."):
        importlib.import_module(module.name)
    parts = [_INTRODUCTION, _summary()]
    parts += [_section(service.name) for service in SERVICES]
    return "\n".join(parts)


def _summary() -> str:
    lines = ["| Service | Implemented | In AWS's model |", "|---|---|---|"]
    for service in SERVICES:
        lines.append(f"| {service.name} | {len(_implemented(service.name))} | {len(_all(service.name))} |")
    return "\n".join(lines) + "\n"


def _section(service: str) -> str:
    implemented = _implemented(service)
    lines = [f"## {service}", "", "| Operation | Accepted, without effect |", "|---|---|"]
    for name in implemented:
        members = registry.accepted_without_effect().get((service, name), ())
        lines.append(f"| {name} | {', '.join(f'`{member}`' for member in sorted(members)) or '–'} |")
    if not implemented:
        lines = [f"## {service}", "", "No operation is implemented yet."]
    missing = [name for name in _all(service) if name not in implemented]
    if missing:
        lines += ["", f'??? note "Not implemented: {len(missing)}"', "", f"    {', '.join(missing)}"]
    return "\n".join(lines) + "\n"


def _implemented(service: str) -> list[str]:
    return sorted(name for owner, name in {*registry.operations(), *_DATA_PLANE} if owner == service)


def _all(service: str) -> list[str]:
    return sorted(model(service).operation_names)


def main() -> None:
    """Write the page to the path given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m clary.services.compatibility PATH")
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page())


if __name__ == "__main__":
    main()

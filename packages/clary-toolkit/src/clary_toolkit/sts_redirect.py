"""Sends AWS clients to AWS_ENDPOINT_URL where they would pass it by: the STS host that the SageMaker SDKs build.

Stands alone: it may be imported by its path, without its package. Python 3.7 and later, standard library only. Nothing
of botocore is imported here; the change is made when, and if, the process itself imports it.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_MODULE = "botocore.session"
_ENDPOINT_POSITION = 4  # of endpoint_url among the arguments of Session.create_client that follow the service's name
_MARK = "_clary_redirects"


def install(environ: "Mapping[str, str]" = os.environ) -> None:
    """Have botocore's clients redirected in this process. Does nothing when `environ` names no AWS_ENDPOINT_URL.

    The variables are read again whenever a client is made.
    """
    if not environ.get("AWS_ENDPOINT_URL"):
        return
    loaded = sys.modules.get(_MODULE)
    if loaded is not None:
        redirect(loaded, environ)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(environ))


def redirect(module: "ModuleType", environ: "Mapping[str, str]" = os.environ) -> None:
    """Wrap `Session.create_client` of the module botocore.session."""
    session: "Any" = module.Session
    original: "Callable[..., object]" = session.create_client
    if hasattr(original, _MARK):
        return

    def create_client(self: object, service_name: str, *args: object, **kwargs: object) -> object:
        is_positional = len(args) > _ENDPOINT_POSITION
        given = args[_ENDPOINT_POSITION] if is_positional else kwargs.get("endpoint_url")
        wanted = endpoint_for(service_name, given, environ)
        if wanted != given:
            if is_positional:
                args = args[:_ENDPOINT_POSITION] + (wanted,) + args[_ENDPOINT_POSITION + 1 :]
            else:
                kwargs["endpoint_url"] = wanted
        return original(self, service_name, *args, **kwargs)

    create_client.__doc__ = original.__doc__
    setattr(create_client, _MARK, True)
    session.create_client = create_client


def endpoint_for(service_name: str, given: object, environ: "Mapping[str, str]") -> object:
    """The endpoint a client gets that was asked for with `given`.

    Amazon's own STS hosts give way to AWS_ENDPOINT_URL_STS or AWS_ENDPOINT_URL; any other address that was asked for
    stands. Where none was asked for, botocore reads the variables itself, from 1.31 on; an older one is told.
    """
    specific = "AWS_ENDPOINT_URL_" + service_name.replace("-", "_").upper()
    ours = environ.get(specific) or environ.get("AWS_ENDPOINT_URL")
    if not ours:
        return given
    if given is None:
        return given if _reads_the_variables() else ours
    host = str(given).partition("://")[2].partition("/")[0].partition(":")[0]
    is_amazon = host.startswith("sts.") and host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return ours if service_name == "sts" and is_amazon else given


def _reads_the_variables() -> bool:
    version = getattr(sys.modules.get("botocore"), "__version__", "")
    try:
        return tuple(int(part) for part in version.split(".")[:2]) >= (1, 31)
    except ValueError:
        return True


class _Finder:
    """Stands first among the finders until botocore.session is looked for, then has its loader changed and goes."""

    def __init__(self, environ: "Mapping[str, str]") -> None:
        self.environ = environ

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name != _MODULE:
            return None
        import importlib.util

        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            _run_after(spec.loader, self.environ)
        return spec


def _run_after(loader: "Any", environ: "Mapping[str, str]") -> None:
    """Have the loader redirect the module once it has run it."""
    run = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        run(module)
        redirect(module, environ)

    loader.exec_module = exec_module

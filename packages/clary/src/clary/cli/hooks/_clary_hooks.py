"""What `clary run` changes in a Python process: nothing until the process imports an AWS SDK, then four things.

1. The SageMaker SDKs call STS at a host they build themselves; its address becomes the server's.
2. Their fixed waits become short (`_clary_polling`), unless CLARY_SDK_POLLING asks for the SDK's own.
3. A botocore that predates AWS_ENDPOINT_URL (before 1.31) is given the address.
4. A profile that a script names leads to no keys: those of the environment are the only ones that the server knows.

Python 3.7 and later, standard library only; every process under `clary run` pays for what is imported here.
"""
# ruff: noqa: PTH100, PTH120, RUF005

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from typing import Any

    Patch = Callable[[Any], None]


def install(environment: Mapping[str, str]) -> None:
    """Arrange for the SDK modules to be changed as they are imported.

    Args:
        environment: the process's variables: AWS_ENDPOINT_URL and CLARY_SDK_POLLING are read.
    """
    patches: dict[str, Patch] = {}
    endpoint = environment.get("AWS_ENDPOINT_URL")
    if endpoint:
        patches["botocore.session"] = _redirect(endpoint)
    if not environment.get("CLARY_SDK_POLLING"):
        import _clary_polling  # pyright: ignore[reportMissingImports]

        patches.update(_clary_polling.PATCHES)
    if patches and not any(isinstance(finder, _PatchingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PatchingFinder(patches))


def run_shadowed_sitecustomize() -> None:
    """Run the sitecustomize that would have run, had this folder not come first on the path."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    ours = sys.modules.get("sitecustomize")
    sys.modules["sitecustomize"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if ours is not None:
            sys.modules["sitecustomize"] = ours
        raise


class _PatchingFinder:
    """Finds a module as usual and has a function applied to it once it has run."""

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._patches = patches
        self._looking: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        patch = self._patches.get(name)
        if patch is None or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.discard(name)
        if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
            return None
        spec.loader = _PatchingLoader(spec.loader, patch)  # pyright: ignore[reportAttributeAccessIssue]
        return spec


class _PatchingLoader:
    """The module's own loader, with a function to call after it."""

    def __init__(self, loader: Any, patch: Patch) -> None:
        self._loader = loader
        self._patch = patch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._patch(module)


def _redirect(endpoint: str) -> Patch:
    def patch(module: Any) -> None:
        import logging

        original = module.Session.create_client

        def create_client(self: Any, service_name: str, *args: Any, **kwargs: Any) -> Any:
            # Positional: region_name, api_version, use_ssl, verify, endpoint_url.
            given = args[4] if len(args) > 4 else kwargs.get("endpoint_url")
            wanted = _endpoint_for(service_name, given, endpoint)
            if wanted != given:
                if len(args) > 4:
                    args = args[:4] + (wanted,) + args[5:]
                else:
                    kwargs["endpoint_url"] = wanted
            return original(self, service_name, *args, **kwargs)

        create_client.__doc__ = original.__doc__
        module.Session.create_client = create_client
        _keep_profiles_a_name(module.Session)
        # It would tell of AWS_ENDPOINT_URL for every client of an SDK that shows information messages, as v2 does.
        logger = logging.getLogger("botocore.configprovider")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)

    return patch


def _keep_profiles_a_name(session: Any) -> None:
    """A session tells the profile that it was asked for, but reads nothing of it: neither keys nor settings."""
    initialise, set_variable = session.__init__, session.set_config_variable

    def initialise_without(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self._profile = self.instance_variables().get("profile")
        self._session_instance_vars.pop("profile", None)

    def set_config_variable(self: Any, logical_name: str, value: Any) -> None:
        if logical_name == "profile":
            self._profile = value
        else:
            set_variable(self, logical_name, value)

    initialise_without.__doc__, set_config_variable.__doc__ = initialise.__doc__, set_variable.__doc__
    session.__init__, session.set_config_variable = initialise_without, set_config_variable


def _endpoint_for(service_name: str, given: str | None, endpoint: str) -> str | None:
    """The address a client should get: only Amazon's own STS hosts are replaced, a user's choice stands."""
    if given is not None:
        host = given.split("://")[-1].split("/")[0].split(":")[0]
        is_amazon = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        return endpoint if service_name == "sts" and is_amazon and host.startswith("sts") else given
    version = getattr(sys.modules.get("botocore"), "__version__", "")
    try:
        knows_the_variable = tuple(int(part) for part in version.split(".")[:2]) >= (1, 31)
    except ValueError:
        knows_the_variable = True
    return given if knows_the_variable else endpoint

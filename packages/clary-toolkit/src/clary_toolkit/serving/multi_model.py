"""SageMaker's interface for containers with several models: POST, GET and DELETE /models, and /models/<name>/invoke.

The platform says which models to load and unload; each may have an inference.py of its own, else the one in
/opt/ml/code serves all.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading

from clary_toolkit.serving import discovery, json_writing, log, user_code
from clary_toolkit.serving.discovery import FoundModel
from clary_toolkit.serving.errors import InvalidArgument, NotFound, ServingError, StartupError
from clary_toolkit.serving.prediction import Answer, failure
from clary_toolkit.serving.served_model import ServedModel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from clary_toolkit.serving.code_runner import Code
    from clary_toolkit.serving.http import Exchange
    from clary_toolkit.serving.models import Models
    from clary_toolkit.serving.prediction import Predictor

    MakeCode = Callable[[ModuleType, str, Callable[[], Any]], Code]

_PATH = re.compile(r"/models(?:/([^/]+)(/invoke)?)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_MACHINE_FULL = 0.97
_FULL = 0.7  # of the memory: from there on the platform is asked to unload something first


class MultiModel:
    """The models that are loaded.

    Args:
        models: where they are registered.
        predictor: what calls them.
        universal: /opt/ml/code, the code of models that have none.
        make_code: makes what answers invocations of a module, its model folder and its default model.
        memory_used: which part of the memory is in use.
    """

    def __init__(
        self,
        models: Models,
        predictor: Predictor,
        universal: str,
        make_code: MakeCode,
        memory_used: Callable[[], float] | None = None,
    ) -> None:
        self._models = models
        self._predictor = predictor
        self._universal = universal
        self._make_code = make_code
        self._memory_used = memory_used or used_memory
        self._urls: dict[str, str] = {}
        self._codes: dict[str, Code | None] = {}
        self._loading: set[str] = set()
        self._lock = threading.Lock()
        self._importing = threading.Lock()

    def handle(self, exchange: Exchange, invoke: Callable[[Exchange, str, Code | None], None]) -> None:
        """Answer a request to /models...; `invoke` does so for an invocation. Never blocks."""
        request = exchange.request
        match = _PATH.fullmatch(request.path)
        name, invocation = match.groups() if match else (None, None)
        try:
            if match is None:
                raise NotFound("There is nothing at {}.".format(request.path[:200]))
            if request.method == "POST" and name and invocation:
                if name not in self._urls:
                    raise NotFound("Model {} is not loaded yet.".format(name))
                invoke(exchange, name, self._codes.get(name))
            elif request.method == "POST" and not name:
                threading.Thread(target=self._answer_load, args=(exchange,), daemon=True).start()
            elif request.method == "GET" and not invocation:
                self._answer_json(exchange, self._describe(name))
            elif request.method == "DELETE" and name and not invocation:
                self.unload(name)
                self._answer_json(exchange, {"success": "Model {} is unloaded.".format(name)})
            else:
                raise ServingError("{} {} is not possible.".format(request.method, request.path), 405)
        except ServingError as error:
            exchange.answer(error.status, json_writing.error(error.message, error.hint))

    def load(self, name: str, url: str) -> None:
        """Load the model in the folder `url`.

        Raises ServingError: 400 for a bad name, 404 where there is no model, 409 where it is loaded, 507 where the
        memory is full.
        """
        if not _NAME.fullmatch(name):
            raise InvalidArgument("The model name {!r} cannot be used. Expected {}.".format(name[:300], _NAME.pattern))
        with self._lock:
            if name in self._urls or name in self._loading:
                raise ServingError("Model {} is already loaded.".format(name), 409)
            self._loading.add(name)
        try:
            used = self._memory_used()
            if used > _FULL:
                raise ServingError(
                    "Memory exhausted: {:.0%} is in use, and models are loaded up to {:.0%}.".format(used, _FULL), 507
                )
            self._load(name, url)
        except MemoryError as error:
            raise ServingError("Memory exhausted: not enough memory to load {}.".format(name), 507) from error
        finally:
            with self._lock:
                self._loading.discard(name)

    def unload(self, name: str) -> None:
        """Give the model's memory back. Raises NotFound."""
        with self._lock:
            url = self._urls.pop(name, None)
            if url is None:
                raise NotFound("Model {} is not loaded yet.".format(name))
            self._codes.pop(name, None)
        if name in self._models.names():
            self._models.unload(name)
        _forget_modules(url)
        log.info("Unloaded model {}".format(name))

    def _load(self, name: str, url: str) -> None:
        module = self._module(name, os.path.join(url, "code"))
        found = discovery.find_models(url) if os.path.isdir(url) else []
        if not found and (module is None or (user_code.has_handlers(module) and not hasattr(module, "handler"))):
            raise NotFound("Could not find valid base path {} for servable {}".format(url, name))
        if len(found) > 1:
            names = ", ".join(model.name for model in found)
            raise NotFound("{} holds several models: {}. Expected one.".format(url, names))
        if found:
            model = FoundModel(name)
            model.versions = found[0].versions
            self._models.load([model])
        code = None
        if module is not None:
            code = self._make_code(module, url, lambda: ServedModel(self._models, self._predictor, name))
        with self._lock:
            self._urls[name] = url
            self._codes[name] = code

    def _module(self, name: str, folder: str) -> ModuleType | None:
        chosen = folder if os.path.isfile(os.path.join(folder, "inference.py")) else self._universal
        script = user_code.find_script(chosen, "inference.py")
        if script is None:
            return None
        own = [folder, os.path.join(folder, "lib")] if chosen == folder else []
        with self._importing:  # the path is the process's: another model's modules must not be found meanwhile
            sys.path[:0] = own
            try:
                return user_code.load(script, _module_name(name))
            finally:
                for entry in own:
                    sys.path.remove(entry)

    def _answer_load(self, exchange: Exchange) -> None:
        try:
            order = json.loads(exchange.request.body)
            if not isinstance(order, dict) or not all(isinstance(order.get(key), str) for key in ("model_name", "url")):
                raise InvalidArgument('Expected {"model_name": "...", "url": "/opt/ml/models/.../model"}.')
            self.load(order["model_name"], order["url"])
            self._answer_json(exchange, {"success": "Successfully loaded model {}.".format(order["model_name"])})
        except StartupError as error:
            exchange.answer(500, json_writing.error(error.message, error.hint))
        except ValueError as error:
            exchange.answer(400, json_writing.error("The order to load a model is no JSON: {}".format(error)))
        except Exception as error:  # noqa: BLE001 - the boundary: the platform gets the error
            answer: Answer = failure(error)
            exchange.answer(answer.status, answer.body)

    def _describe(self, name: str | None) -> dict[str, object]:
        with self._lock:
            if name is None:
                models = [{"modelName": each, "modelUrl": url} for each, url in sorted(self._urls.items())]
                return {"models": models}
            if name not in self._urls:
                raise NotFound("Model {} is not loaded yet.".format(name))
            return {"modelName": name, "modelUrl": self._urls[name]}

    def _answer_json(self, exchange: Exchange, document: dict[str, object]) -> None:
        exchange.answer(200, json.dumps(document).encode())


def _module_name(model: str) -> str:
    return "inference_{}".format(re.sub(r"\W", "_", model))


def _forget_modules(folder: str) -> None:
    """Have modules of a model read again, should it come back: its files may be others then."""
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder.rstrip("/") + "/"):
            del sys.modules[name]


def used_memory() -> float:
    """Which part of the memory that this process may have is in use.

    The platform names its share; without one it is its control group's, else the machine's. A machine that has next to
    nothing left is full whatever the share.
    """
    share = int(os.environ.get("CLARY_MEMORY_BYTES") or 0)
    machine = _used_of_machine()
    if share:
        return max(_resident() / share, machine if machine > _MACHINE_FULL else 0.0)
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit and used:
        return used / limit
    return machine


def _resident() -> int:
    """The memory of this process, in bytes."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _used_of_machine() -> float:
    values: dict[str, int] = {}
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                key, _, text = line.partition(":")
                values[key] = int(text.split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return 1 - values.get("MemAvailable", 0) / max(values.get("MemTotal", 0), 1)


def _read(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # "max": no limit
        return None

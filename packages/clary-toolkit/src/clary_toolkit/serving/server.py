"""The `serve` command: listens at once, loads the model beside, serves until SIGTERM and then answers what is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading

from clary_toolkit.serving import code_runner, discovery, log, models, own_packages, user_code
from clary_toolkit.serving.application import Application
from clary_toolkit.serving.batching import Device
from clary_toolkit.serving.errors import ServingError, StartupError
from clary_toolkit.serving.functions import Functions
from clary_toolkit.serving.grpc_server import GrpcServer
from clary_toolkit.serving.handlers import Handlers
from clary_toolkit.serving.http import Server
from clary_toolkit.serving.multi_model import MultiModel
from clary_toolkit.serving.prediction import Predictor
from clary_toolkit.serving.served_model import ServedModel
from clary_toolkit.serving.settings import Settings
from clary_toolkit.serving.workers import UserWorkers, Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from clary_toolkit.serving.code_runner import Code
    from clary_toolkit.serving.models import Load

_DRAIN_SECONDS = 25.0  # SIGKILL follows SIGTERM after 30
_SWITCH_SECONDS = 0.0005  # the loop waits no longer than this for a worker that is busy in Python
_YOUNG_OBJECTS = 50000  # before garbage is looked for: many requests in progress would be walked again and again


def main() -> int:
    """Serve the model in /opt/ml/model, or in the folder that SAGEMAKER_BASE_DIR names; returns the exit code."""
    try:
        settings = Settings.of(os.environ)
        log.configure(settings.log_level)
        own_packages.add(os.environ)
        for notice in settings.ignored:
            log.warning(notice)
        code = asyncio.run(serve(settings))
    except StartupError as error:
        log.error(error.message)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the user's code may hang for ever


async def serve(settings: Settings, load: Load | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises StartupError where nothing can be served.

    Args:
        settings: what to serve, and where.
        load: what loads a version of a model; the image's TensorFlow where it is not given.
    """
    loop = asyncio.get_event_loop()
    sys.setswitchinterval(_SWITCH_SECONDS)
    application = Application(settings)
    server = Server(application.handle, settings.max_payload)
    listening, rest_url = await _listen(server, settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(number, stop.set)
    watch = loop.create_task(server.watch())
    grpc: GrpcServer | None = None
    loading = loop.run_in_executor(None, _start, settings, application, load, rest_url)
    stopped = loop.create_task(stop.wait())
    await asyncio.wait([loading, stopped], return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        grpc = loading.result()  # or raises what went wrong
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS)
        log.info("Serving on {}".format(", ".join(_places(settings, rest_url))))
        await stopped
    log.info("Stopping: {} requests in progress".format(server.in_progress))
    for each in listening:
        each.close()
    ending: list[Any] = [server.drain(_DRAIN_SECONDS)]
    if grpc is not None:
        ending.append(loop.run_in_executor(None, grpc.stop, _DRAIN_SECONDS))
    await asyncio.gather(*ending)
    watch.cancel()
    if server.in_progress:
        log.warning("{} requests were not answered in time".format(server.in_progress))
    log.info("Stopped")
    return 0


def _start(settings: Settings, application: Application, load: Load | None, rest_url: str) -> GrpcServer:
    """Everything that takes time before the first request; gRPC's server, which starts beside."""
    user_code.install(settings.code_folder)
    served = models.Models(settings, load or models.loader(settings))
    workers = Workers(settings.threads, "model")
    predictor = Predictor(served, Device(settings.slots, settings.max_batch, workers.run))
    grpc = GrpcServer(served, predictor, settings)

    def handlers_of(module: ModuleType) -> Code:
        handlers = Handlers(module, predictor.rest_now, rest_url, settings.handler_seconds, grpc.reach)
        return code_runner.of_handlers(handlers, lambda: served.default or "model")

    def code_of(module: ModuleType, folder: str, default_model: Callable[[], Any]) -> Code:
        """For one of several models."""
        if user_code.has_handlers(module):
            return handlers_of(module)
        functions = Functions(module, folder, settings.default_accept, default_model)
        return code_runner.of_functions_with(functions, _loaded(functions.load_model))

    if settings.multi_model:
        user_workers = UserWorkers(settings.handler_threads, settings.handler_seconds, _nothing)
        several = MultiModel(served, predictor, settings.code_folder, code_of)
        application.start(served, predictor, workers, None, user_workers, several)
        grpc.start()
        return grpc

    script = user_code.find_script(settings.code_folder, settings.program)
    module = user_code.load(script) if script else None
    found = discovery.find_models(settings.model_folder) if os.path.isdir(settings.model_folder) else []
    if module is None or user_code.has_handlers(module):
        if found or not hasattr(module, "handler"):
            served.load(found or models.find(settings))
        code = handlers_of(module) if module else None
        user_workers = UserWorkers(settings.handler_threads, settings.handler_seconds, _nothing) if module else None
        application.start(served, predictor, workers, code, user_workers)
        grpc.start()
        return grpc
    functions = Functions(
        module, settings.model_folder, settings.default_accept, lambda: ServedModel(served, predictor)
    )
    if functions.needs_default_model:
        served.load(found or models.find(settings))
    user_workers = _loaded(
        lambda: UserWorkers(settings.function_threads, settings.function_seconds, functions.load_model)
    )
    application.start(served, predictor, workers, code_runner.of_functions(functions), user_workers)
    return grpc  # functions know nothing of it


def _loaded(load: Callable[[], Any]) -> Any:
    """What `load` gives; what it raises ends the start, told as the user's code's own."""
    try:
        return load()
    except ServingError:
        raise
    except BaseException as error:
        log.exception("model_fn failed")
        raise StartupError("model_fn failed: {}: {}".format(type(error).__name__, error)) from error


def _nothing() -> Any:
    return None


async def _listen(server: Server, settings: Settings) -> tuple[list[asyncio.AbstractServer], str]:
    """Listen on the socket, the port, and a port of loopback for handlers' own requests; the last one's URL."""
    loop = server.loop
    listening: list[asyncio.AbstractServer] = []
    if settings.socket:
        if os.path.exists(settings.socket):
            os.unlink(settings.socket)
        try:
            listening.append(await loop.create_unix_server(server.protocol, settings.socket, backlog=1024))
        except OSError as error:
            raise StartupError("The socket {} cannot be made: {}".format(settings.socket, error)) from error
    if settings.port is not None:
        try:
            listening.append(await loop.create_server(server.protocol, settings.address, settings.port, backlog=1024))
        except OSError as error:
            if not settings.socket:
                raise StartupError(
                    "Port {} (SAGEMAKER_BIND_TO_PORT) is not free: {}".format(settings.port, error)
                ) from error
            log.warning("Port {} is not free; the socket alone serves".format(settings.port))
    rest = await loop.create_server(server.protocol, "127.0.0.1", 0)
    listening.append(rest)
    port = rest.sockets[0].getsockname()[1] if rest.sockets else 0
    return listening, "http://{}:{}".format(_loopback(), port)


def _loopback() -> str:
    try:
        return "localhost" if socket.gethostbyname("localhost") == "127.0.0.1" else "127.0.0.1"
    except OSError:
        return "127.0.0.1"


def _places(settings: Settings, rest_url: str) -> list[str]:
    places = [settings.socket] if settings.socket else []
    if settings.port is not None:
        places.append("{}:{}".format(settings.address, settings.port))
    return [place for place in places if place] + [rest_url]


if __name__ == "__main__":
    sys.exit(main())

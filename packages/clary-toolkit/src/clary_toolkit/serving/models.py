"""The models that are served: loading them, finding one by name and version, and their status."""

from __future__ import annotations

import json
import os
import threading

import numpy as np

from clary_toolkit.serving import discovery, engines, log
from clary_toolkit.serving.errors import InvalidArgument, NotFound, ServingError
from clary_toolkit.serving.signatures import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from clary_toolkit.serving.discovery import FoundModel, FoundVersion
    from clary_toolkit.serving.execution import Executor
    from clary_toolkit.serving.settings import Settings
    from clary_toolkit.serving.signatures import Signature, TensorSpec

    Load = Callable[[FoundVersion], Executor]

_TOLERANCE = 1e-4


class Version:
    """A loaded version of a model; `batched` are the signatures whose calls may be joined."""

    def __init__(self, model: str, number: int, executor: Executor) -> None:
        self.model = model
        self.number = number
        self.executor = executor
        self.batched: set[str] = set()

    def signature(self, name: str | None) -> Signature:
        """Raises InvalidArgument with TensorFlow Serving's text where there is none of that name."""
        wanted = name or DEFAULT
        found = self.executor.signatures.get(wanted)
        if found is None:
            raise InvalidArgument(
                'Serving signature name: "{}" not found in signature def'.format(wanted),
                "The model {} (version {}) has: {}.".format(
                    self.model, self.number, ", ".join(sorted(self.executor.signatures)) or "none"
                ),
            )
        return found


class Models:
    """All models that are served, by name. Its methods may be called by several threads."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self._settings = settings
        self._load = load
        self._models: dict[str, dict[int, Version]] = {}
        self._lock = threading.Lock()
        self.default: str | None = settings.default_model

    def __len__(self) -> int:
        return len(self._models)

    def names(self) -> list[str]:
        """The names of the models that are served."""
        return sorted(self._models)

    def load(self, found: list[FoundModel]) -> None:
        """Load every version of these models, the highest first, and call each once."""
        for model in found:
            versions = {
                number: self._load_version(model.name, number, model.versions[number])
                for number in sorted(model.versions, reverse=True)
            }
            with self._lock:
                self._models[model.name] = versions
        if self.default is None and found:
            self.default = found[0].name
        elif self.default is not None and self.default not in self._models and len(self._models) == 1:
            (name,) = self._models
            log.warning(
                "SAGEMAKER_TFS_DEFAULT_MODEL_NAME is {!r}, but the only model is {!r}: it answers to both".format(
                    self.default, name
                )
            )
            with self._lock:
                self._models[self.default] = self._models[name]

    def unload(self, name: str) -> None:
        """Give a model's memory back. Raises NotFound."""
        with self._lock:
            versions = self._models.pop(name, None)
        if versions is None:
            raise NotFound("Model {} is not loaded yet.".format(name))
        for version in versions.values():
            version.executor.close()

    def find(self, name: str | None, number: int | None = None) -> Version:
        """A version of a model, the highest where no number is given. Raises NotFound."""
        wanted = name or self.default or ""
        versions = self._models.get(wanted)
        if versions is None or (number is not None and number not in versions):
            request = "Latest({})".format(wanted) if number is None else "Specific({}, {})".format(wanted, number)
            raise NotFound("Servable not found for request: {}".format(request), self._served())
        return versions[max(versions) if number is None else number]

    def status(self, name: str, number: int | None) -> bytes:
        """TensorFlow Serving's answer to GET /v1/models/<name>. Raises NotFound."""
        described = [
            {"version": str(each), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for each in self.numbers(name, number)
        ]
        return json.dumps({"model_version_status": described}, indent=1).encode() + b"\n"

    def numbers(self, name: str, number: int | None) -> list[int]:
        """The versions of a model, the highest first; the one of this number where it is given. Raises NotFound."""
        versions = self._models.get(name)
        if versions is None or (number is not None and number not in versions):
            if number is None:
                raise NotFound("Could not find any versions of model {}".format(name), self._served())
            raise NotFound("Could not find version {} of model {}".format(number, name), self._served())
        return sorted(versions, reverse=True) if number is None else [number]

    def _served(self) -> str:
        return "Served: {}.".format(
            ", ".join(
                "{} (versions {})".format(name, ", ".join(map(str, sorted(versions))))
                for name, versions in sorted(self._models.items())
            )
            or "none"
        )

    def _load_version(self, name: str, number: int, found: FoundVersion) -> Version:
        log.info("Loading model {} version {} from {}".format(name, number, found.path))
        version = Version(name, number, self._load(found))
        executor = version.executor
        signatures = list(executor.signatures.values())
        if self._settings.batching:
            version.batched.update(signature.name for signature in signatures if signature.has_rows)
        usual = [each for each in signatures if each.name == DEFAULT] or signatures
        for signature in usual:
            self._try(version, signature)
        others = [each for each in signatures if each not in usual]
        # Keras gives each model a second signature for the same: the start waits for the usual one alone.
        if others:
            threading.Thread(target=self._try_all, args=(version, others), name="rehearsal", daemon=True).start()
        log.info(
            "Model {} version {} is ready ({}): {}".format(
                name, number, executor.kind, " ".join(each.expects() for each in executor.signatures.values())
            )
        )
        return version

    def _try_all(self, version: Version, signatures: list[Signature]) -> None:
        try:
            for signature in signatures:
                self._try(version, signature)
        except Exception:  # noqa: BLE001 - the boundary of the thread; requests are then not joined
            log.exception("A rehearsal failed")

    def _try(self, version: Version, signature: Signature) -> None:
        """Call the signature once, and find out whether its requests may be joined."""
        if self._settings.batching is not None or not signature.has_rows:
            _warm_up(version.executor, signature)
            return
        verdict = _rows_are_independent(version.executor, signature)
        if verdict == "verified":
            version.batched.add(signature.name)
        else:
            log.info("Requests of signature {} of {} are not joined: {}".format(signature.name, version.model, verdict))


def loader(settings: Settings) -> Load:
    """Loads a version with the image's TensorFlow, and lets OpenVINO compute where it gives the same."""

    def load(found: FoundVersion) -> Executor:
        from clary_toolkit.serving.tensorflow_execution import TensorFlowExecutor

        path = found.path
        if found.kind == discovery.KERAS:
            from clary_toolkit.serving import keras_export

            path = keras_export.as_saved_model(path)
        trusted = TensorFlowExecutor(path, settings.intra_op, settings.inter_op)
        return engines.beside(trusted, path, settings)

    return load


def find(settings: Settings) -> list[FoundModel]:
    """The models in the model folder. Raises StartupError where there are none."""
    found = discovery.find_models(settings.model_folder) if os.path.isdir(settings.model_folder) else []
    if not found:
        raise discovery.nothing_found(settings.model_folder)
    return found


def _warm_up(executor: Executor, signature: Signature) -> None:
    try:
        executor.rehearse(signature, {name: _sample(spec, 1) for name, spec in signature.inputs.items()})
    except (ServingError, ValueError, TypeError) as error:
        log.debug("The warm-up of signature {} gave no answer: {}".format(signature.name, error))


def _rows_are_independent(executor: Executor, signature: Signature) -> str:
    """Calls the model with rows alone and together; "verified" where each row's outputs are the same both ways."""
    try:
        inputs = {name: _sample(spec, 3) for name, spec in signature.inputs.items()}
        together = executor.rehearse(signature, inputs)
        for row in range(3):
            alone = executor.rehearse(signature, {name: array[row : row + 1] for name, array in inputs.items()})
            for name, array in alone.items():
                if together[name].shape[1:] != array.shape[1:] or len(together[name]) != 3 or len(array) != 1:
                    return "its outputs have not a row for each row of the inputs"
                if not _same(together[name][row], array[0]):
                    return "a row's result depends on the other rows of its request"
    except (ServingError, ValueError, TypeError) as error:
        return "it could not be called with made-up rows ({})".format(str(error).split("\n")[0][:200])
    return "verified"


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    if np.asarray(left).dtype.kind in "fc":
        return bool(np.allclose(left, right, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    return bool(np.array_equal(left, right))


def _sample(spec: TensorSpec, rows: int) -> np.ndarray:
    """Made-up values: small, different in each row."""
    shape = tuple(rows if place == 0 and size == -1 else max(size, 1) for place, size in enumerate(spec.shape or ()))
    generator = np.random.RandomState(7)
    if spec.numpy is object:
        words = np.array([b"", b"one", b"another one"], dtype=object)
        count = int(np.prod(shape, dtype=np.int64))
        return words[np.arange(count) % 3].reshape(shape)
    values = generator.uniform(0, 1, shape)
    if np.dtype(spec.numpy).kind in "iub":
        return np.rint(values).astype(spec.numpy)
    return values.astype(spec.numpy)

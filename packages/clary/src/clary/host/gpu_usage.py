"""How busy a host's GPUs were, as SageMaker's instance metrics tell it: averages between two readings."""

from __future__ import annotations

from clary.host.nvml import Nvml, NvmlError


class GpuUsage:
    """Gathers samples of some GPUs. Used by one thread at a time.

    Args:
        numbers: the GPUs. Where there are none, or NVIDIA's library cannot be used, there are no figures.
    """

    def __init__(self, numbers: tuple[int, ...]) -> None:
        self._numbers = numbers
        self._nvml: Nvml | None = None
        self._samples: list[tuple[float, float]] = []
        if numbers:
            try:
                self._nvml = Nvml()
            except NvmlError:
                self._numbers = ()  # `clary doctor` says what is wrong with it

    def sample(self) -> None:
        """Look once. A GPU that cannot be asked just now leaves no sample."""
        if self._nvml is None:
            return
        try:
            seen = [self._nvml.usage(number) for number in self._numbers]
        except NvmlError:
            return
        memory = sum(100 * each.memory_used / each.memory_total for each in seen)
        self._samples.append((sum(each.busy for each in seen), memory))

    def readings(self) -> dict[str, float]:
        """The averages of the samples since the last call, added up over the GPUs: 100 for each that is in full use."""
        samples, self._samples = self._samples, []
        if not samples:
            return {}
        return {
            "GPUUtilization": sum(busy for busy, _ in samples) / len(samples),
            "GPUMemoryUtilization": sum(memory for _, memory in samples) / len(samples),
        }

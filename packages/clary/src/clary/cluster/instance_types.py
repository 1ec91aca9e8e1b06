"""Instance types: what AWS's have, and what a job that asks for them gets of the machines here.

docs/reference/instance-types.md states the rule for users; `tests/cluster/test_instance_types.py` holds both to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clary.cluster.base import Node, Resources

GIB = 1024**3
GPUS_VARIABLE = "CLARY_GPUS"
_SERVING_SHARES = 8
MINIMUM = Resources(cpus=0.25, memory_bytes=GIB // 2)  # with less, a Python with TensorFlow does not even start


@dataclass(frozen=True)
class InstanceType:
    """What AWS says an instance type has. `accelerator` is a kind that no machine here can have: "Trainium"."""

    name: str
    vcpus: int
    memory_gib: float
    gpus: int = 0
    accelerator: str | None = None
    known: bool = True


# Memory per vCPU of the families whose sizes all follow size → vCPUs (large 2, xlarge 4, Nxlarge 4·N).
_GIB_PER_VCPU = {
    **dict.fromkeys(("m4", "m5", "m5d", "m6g", "m6gd", "m6i", "m7i", "m7i-flex", "m8g", "m8i", "m8i-flex"), 4.0),
    **dict.fromkeys(("c5", "c5d", "c6g", "c6gd", "c6gn", "c6i", "c6in", "c7g", "c7i", "c7i-flex", "c8g"), 2.0),
    **dict.fromkeys(("c8i", "c8i-flex", "inf1"), 2.0),
    **dict.fromkeys(("r5", "r5d", "r6g", "r6gd", "r6i", "r7gd", "r7i", "r8g", "r8i", "r8i-flex"), 8.0),
    **dict.fromkeys(("g4dn", "g5", "g6", "g7", "t2", "t3", "trn1", "trn1n", "inf2"), 4.0),
    **dict.fromkeys(("g6e", "g7e", "p3dn", "dl1"), 8.0),
    "c4": 1.875,
    "c5n": 2.625,
    "p2": 15.25,
    "p3": 7.625,
    "p4d": 12.0,
    "p4de": 12.0,
    "p5": 2048 / 192,
    "p5e": 2048 / 192,
    "p5en": 2048 / 192,
    "p6-b200": 2048 / 192,
    "p6-b300": 4096 / 192,
    "p6e-gb200": 960 / 144,
    "trn2": 2048 / 192,
}

# (vCPUs, GiB) where a size does not follow its family's rule.
_EXCEPTIONS = {
    "t2.medium": (2, 4.0),
    "t3.medium": (2, 4.0),
    "c4.8xlarge": (36, 60.0),
    "p2.16xlarge": (64, 732.0),
    "p5.4xlarge": (16, 256.0),
    "g7e.12xlarge": (48, 512.0),
    "g7e.24xlarge": (96, 1024.0),
    "g7e.48xlarge": (192, 2048.0),
}

# GPUs of each size; a size that is not listed has one.
_G_SIZES = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}
_GPUS: dict[str, dict[str, int]] = {
    "g4dn": {"12xlarge": 4},
    "g5": _G_SIZES,
    "g6": _G_SIZES,
    "g6e": _G_SIZES,
    "g7": {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    "g7e": {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    "p2": {"8xlarge": 8, "16xlarge": 16},
    "p3": {"8xlarge": 4, "16xlarge": 8},
    "p3dn": {"24xlarge": 8},
    "p4d": {"24xlarge": 8},
    "p4de": {"24xlarge": 8},
    "p5": {"48xlarge": 8},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
    "p6-b200": {"48xlarge": 8},
    "p6-b300": {"48xlarge": 8},
    "p6e-gb200": {"36xlarge": 4},
}

_ACCELERATORS = {"trn": "Trainium", "inf": "Inferentia", "dl1": "Gaudi"}


def instance_type(name: str) -> InstanceType:
    """What an instance type has: AWS's figures, or the documented guess for one that AWS does not have.

    Args:
        name: "ml.m5.xlarge". "ml.p3.xlarge", which AWS never had but examples name, is four vCPUs of its family.
    """
    family, _, size = name.removeprefix("ml.").partition(".")
    vcpus = _vcpus(size)
    ratio = _GIB_PER_VCPU.get(family)
    accelerator = next((word for prefix, word in _ACCELERATORS.items() if family.startswith(prefix)), None)
    if ratio is None or vcpus is None:
        gpus = 1 if family[:1] in ("g", "p") and accelerator is None else 0
        return InstanceType(name, vcpus or 4, 4.0 * (vcpus or 4), gpus, accelerator, known=False)
    vcpus, memory = _EXCEPTIONS.get(f"{family}.{size}", (vcpus, vcpus * ratio))
    gpus = _GPUS[family].get(size, 1) if family in _GPUS else 0
    return InstanceType(name, vcpus, memory, gpus, accelerator)


def _vcpus(size: str) -> int | None:
    if size in ("medium", "large", "xlarge"):
        return {"medium": 1, "large": 2, "xlarge": 4}[size]
    times = size.removesuffix("xlarge")
    return 4 * int(times) if times != size and times.isdecimal() and 0 < int(times) < 1000 else None


def resources_for(types: Sequence[str], nodes: Sequence[Node]) -> tuple[Resources, ...]:
    """What each host of a job gets, scaled so that the whole job fits on the machines where that is possible.

    No host gets more than the largest machine has; if all hosts together ask for more CPUs, memory or GPUs than there
    are, each gets the same share of what it asked for, at least `MINIMUM` and whole GPUs. Where there are no
    GPUs at all, none are asked for: the job runs on CPUs.

    Args:
        types: the instance type of each host, in order.
        nodes: the machines, at least one.
    """
    asked = [instance_type(name) for name in types]
    cpus = _share([float(item.vcpus) for item in asked], [node.total.cpus for node in nodes], MINIMUM.cpus)
    memory = _share(
        [item.memory_gib * GIB for item in asked],
        [float(node.total.memory_bytes) for node in nodes],
        float(MINIMUM.memory_bytes),
    )
    gpus = _share_gpus([item.gpus for item in asked], [int(node.total.gpus) for node in nodes])
    return tuple(
        Resources(cpus=round(host_cpus, 3), memory_bytes=int(host_memory), gpus=host_gpus)
        for host_cpus, host_memory, host_gpus in zip(cpus, memory, gpus, strict=True)
    )


def gpus_asked(environment: Mapping[str, str]) -> float | None:
    """How many GPUs a job asks for each of its hosts beside its instance type: `CLARY_GPUS` of its Environment.

    Args:
        environment: the request's.

    Raises:
        ValueError: it is neither a whole number nor a part of one GPU.
    """
    if GPUS_VARIABLE not in environment:
        return None
    given = environment[GPUS_VARIABLE]
    try:
        gpus = float(given)
    except ValueError:
        gpus = -1.0
    if not 0 <= gpus < 1000 or (gpus > 1 and gpus != int(gpus)):
        raise ValueError(
            f"{GPUS_VARIABLE} is the number of GPUs of each host: a whole number, or a part of one such as 0.5. "
            f"Received: {given!r}"
        )
    return gpus


def serving_resources(name: str, nodes: Sequence[Node]) -> tuple[Resources, Resources]:
    """What a replica of an endpoint reserves, and what it may use at most.

    An endpoint is idle most of the time and is there to stay, so it reserves no processors and an eighth of the
    largest machine's memory at most: others run beside it, and an update has room for two generations. What it may use
    is the instance type's, as far as the largest machine has it. GPUs are reserved whole.

    Args:
        name: the instance type.
        nodes: the machines, at least one.
    """
    (limit,) = resources_for([name], nodes)
    share = max(node.total.memory_bytes for node in nodes) // _SERVING_SHARES
    memory = max(MINIMUM.memory_bytes, min(limit.memory_bytes, share))
    return Resources(cpus=0, memory_bytes=memory, gpus=limit.gpus), limit


def _share(asked: list[float], available: list[float], minimum: float) -> list[float]:
    capped = [min(amount, max(available)) for amount in asked]
    factor = min(1.0, sum(available) / sum(capped)) if capped else 1.0
    # Rounded down to a thousandth: the shares of all hosts together must never exceed what there is.
    return [max(minimum, int(amount * factor * 1000) / 1000) for amount in capped]


def _share_gpus(asked: list[int], available: list[int]) -> list[int]:
    if not sum(available):
        return [0] * len(asked)
    capped = [min(amount, max(available)) for amount in asked]
    factor = min(1.0, sum(available) / sum(capped)) if sum(capped) else 1.0
    return [max(1, int(amount * factor)) if amount else 0 for amount in capped]


def notices_for(name: str, nodes: Sequence[Node]) -> tuple[str, ...]:
    """Lines for the head of a host's log where it does not get the kind of hardware that its type names."""
    wanted = instance_type(name)
    lines: list[str] = []
    if not wanted.known:
        lines.append(
            f"AWS has no instance type {name}: taken as {wanted.vcpus} vCPUs, {wanted.memory_gib:g} GiB"
            + (f" and {wanted.gpus} GPU" if wanted.gpus else "")
            + "."
        )
    most = max((int(node.total.gpus) for node in nodes), default=0)
    if wanted.gpus and not most:
        lines.append(f"{name} has {wanted.gpus} GPU(s) on AWS, this machine has none: the job runs on CPUs.")
    elif wanted.gpus > most:
        lines.append(f"{name} has {wanted.gpus} GPUs on AWS, a machine here has {most}: no host gets more.")
    if wanted.accelerator:
        lines.append(f"{name} has {wanted.accelerator} chips on AWS, this machine has none: the job runs on CPUs.")
    return tuple(lines)

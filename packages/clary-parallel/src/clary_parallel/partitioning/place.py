"""Which rank runs which partition of which replica."""

from __future__ import annotations

from itertools import permutations

_ORDERS = {"cluster": "DPT", "spread": "TPD"}


def place(size: int, partitions: int, strategy: str = "cluster") -> list[list[int]]:
    """Groups of ranks that hold one replica of the model each, in the order of partitions.

    Args:
        size: Number of ranks; ranks of one host have consecutive numbers.
        partitions: Number of partitions of the model.
        strategy: "cluster" puts a replica's partitions on neighbouring ranks (one host, where they fit); "spread" puts
            the replicas of one partition on neighbouring ranks; or the letters D (data), P (pipeline) and T (tensor,
            always 1 here) in any order, the last varying fastest.

    Raises:
        ValueError: The ranks cannot be divided, or the strategy is unknown.

    Example:
        >>> place(8, 2, "cluster")
        [[0, 1], [2, 3], [4, 5], [6, 7]]
        >>> place(8, 2, "spread")
        [[0, 4], [1, 5], [2, 6], [3, 7]]
    """
    order = _ORDERS.get(strategy, strategy)
    if tuple(order) not in set(permutations("DPT")):
        raise ValueError(
            f'placement_strategy is "cluster", "spread" or a permutation of the letters DPT. Received: {strategy!r}.'
        )
    if partitions < 1 or size % partitions:
        raise ValueError(
            f"{size} ranks cannot hold whole replicas of {partitions} partitions. "
            f"Start a multiple of {partitions} ranks."
        )
    replicas = size // partitions
    if order.index("P") > order.index("D"):
        return [[replica * partitions + part for part in range(partitions)] for replica in range(replicas)]
    return [[part * replicas + replica for part in range(partitions)] for replica in range(replicas)]

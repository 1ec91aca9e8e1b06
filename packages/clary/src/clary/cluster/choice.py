"""Which cluster the settings ask for. Nothing of Ray is loaded unless it is Ray."""

from __future__ import annotations

from clary.cluster.base import Clusters
from clary.cluster.local import LocalCluster
from clary.settings import Settings


def for_hosts(settings: Settings) -> Settings:
    """The settings with the server's address as the hosts of jobs reach it."""
    if not settings.uses_ray:
        return settings
    from clary.cluster.ray import with_url_for_hosts

    return with_url_for_hosts(settings)


def choose(settings: Settings) -> Clusters:
    """The clusters of a server.

    Args:
        settings: as `for_hosts` makes them.
    """
    if not settings.uses_ray:
        local = LocalCluster(settings)
        return Clusters(jobs=local, endpoints=local)
    from clary.cluster.ray import BesideServer, RayCluster

    ray = RayCluster(settings)
    return Clusters(jobs=ray, endpoints=BesideServer(ray), elsewhere=True)

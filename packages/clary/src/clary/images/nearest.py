"""When an image cannot be built here: which one comes closest that can."""

from __future__ import annotations

from clary.images.catalog import FrameworkImage
from clary.images.interpreters import at_hand
from clary.images.reference import parse
from clary.images.releases import python_distance, python_versions, releases


def nearest_buildable(image: FrameworkImage) -> str | None:
    """The URI of the image nearest to `image` whose Python is on this machine; None without any.

    The same version of the framework on another Python comes first, then the versions around it. Looks for every Python
    there is, which takes about a second: for the moment of an error only.
    """
    pythons = [python for python in at_hand(python_versions()) if python != image.python]
    here = parse(image.uri)
    if image.framework == "python":
        nearest = min(pythons, key=lambda python: python_distance(python, image.python), default=None)
        return here.sibling("python", nearest) if nearest else None
    versions = [release.version for release in releases()]
    own = versions.index(image.version)
    fitting = [release for release in releases() if set(release.pythons) & set(pythons)]
    best = min(fitting, key=lambda release: abs(versions.index(release.version) - own), default=None)
    if best is None:
        return None
    usable = (python for python in best.pythons if python in pythons)
    python = min(usable, key=lambda python: python_distance(python, image.python))
    device = "gpu" if "-gpu" in image.uri else "cpu"
    return here.sibling("tensorflow-training", f"{best.version}-{device}-py{python.replace('.', '')}")

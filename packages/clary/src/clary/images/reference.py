"""Image URIs: registry, repository, tag and digest, of Amazon ECR and of registries like Docker Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clary.images.errors import ImageError

_ECR_HOST = re.compile(r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z0-9.]+")
_REGISTRY = re.compile(r"[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*(?::\d+)?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")


@dataclass(frozen=True)
class ImageReference:
    """A parsed image URI.

    Args:
        registry: host and port, empty for Docker Hub's short names.
        account: the AWS account of an ECR registry, else None.
        region: the AWS region of an ECR registry, else None.
        repository: the path below the registry, for instance "tensorflow-training" or "tensorflow/tensorflow".
        tag: for instance "2.19-cpu-py312"; None where the URI has none.
        digest: for instance "sha256:…"; None where the URI has none.
    """

    registry: str
    account: str | None
    region: str | None
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """The last part of the repository, by which images are matched."""
        return self.repository.rpartition("/")[2]

    def sibling(self, name: str, tag: str) -> str:
        """The URI of another image beside this one, in the same registry."""
        return f"{self.registry}/{name}:{tag}" if self.registry else f"{name}:{tag}"


def parse(uri: str) -> ImageReference:
    """Takes `uri` apart.

    >>> parse("763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312").tag
    '2.19-cpu-py312'

    Raises:
        ImageError: `uri` is not of the form registry/repository:tag.
    """
    rest, at, digest = uri.partition("@")
    head, _, tail = rest.partition("/")
    registry, path = ("", rest)
    if tail and ("." in head or ":" in head or head == "localhost"):
        registry, path = head, tail
    repository, colon, tag = path.partition(":")
    wrong = bool(registry) and not _REGISTRY.fullmatch(registry)
    wrong |= not _REPOSITORY.fullmatch(repository)
    wrong |= bool(colon) and not _TAG.fullmatch(tag)
    wrong |= bool(at) and not _DIGEST.fullmatch(digest)
    if wrong:
        raise ImageError(
            f"{uri!r} is not an image URI. Expected registry/repository:tag, "
            "for instance 763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312."
        )
    ecr = _ECR_HOST.fullmatch(registry)
    return ImageReference(
        registry=registry,
        account=ecr["account"] if ecr else None,
        region=ecr["region"] if ecr else None,
        repository=repository,
        tag=tag or None,
        digest=digest or None,
    )

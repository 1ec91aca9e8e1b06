"""Image URIs of every kind that SageMaker scripts hold."""

from __future__ import annotations

import pytest

from clary.images.errors import ImageError
from clary.images.reference import parse


def test_an_ecr_uri_is_taken_apart():
    found = parse("763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312")
    assert (found.account, found.region) == ("763104351884", "us-east-1")
    assert (found.repository, found.tag, found.digest) == ("tensorflow-training", "2.19-cpu-py312", None)


@pytest.mark.parametrize(
    "registry",
    [
        "000000000000.dkr.ecr.eu-west-3.amazonaws.com",
        "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "446045086412.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        "442386744353.dkr.ecr.us-gov-east-1.amazonaws.com",
    ],
)
def test_every_partition_and_account_is_ecr(registry: str):
    found = parse(f"{registry}/tensorflow-training:1.15.5-gpu-py37-cu100-ubuntu18.04")
    assert found.registry == registry
    assert found.account is not None
    assert found.region is not None
    assert found.repository == "tensorflow-training"


@pytest.mark.parametrize(
    ("uri", "registry", "repository", "name", "tag"),
    [
        ("python:3.11", "", "python", "python", "3.11"),
        ("python", "", "python", "python", None),
        ("tensorflow/tensorflow:2.15.0-gpu", "", "tensorflow/tensorflow", "tensorflow", "2.15.0-gpu"),
        ("docker.io/library/python:3.9-slim", "docker.io", "library/python", "python", "3.9-slim"),
        ("public.ecr.aws/docker/library/python:3", "public.ecr.aws", "docker/library/python", "python", "3"),
        ("localhost:5000/mine:v1", "localhost:5000", "mine", "mine", "v1"),
    ],
)
def test_other_registries_and_short_names(uri: str, registry: str, repository: str, name: str, tag: str | None):
    found = parse(uri)
    assert (found.registry, found.repository, found.name, found.tag) == (registry, repository, name, tag)
    assert found.account is None


def test_a_digest_stands_beside_or_instead_of_the_tag():
    digest = "sha256:" + "0a" * 32
    assert parse(f"python:3.11@{digest}").tag == "3.11"
    assert parse(f"python@{digest}").tag is None
    assert parse(f"python@{digest}").digest == digest


@pytest.mark.parametrize(
    "uri", ["", ":", "Python:3.11", "python:", "python:a b", "a//b:1", "python@x", "../etc:1", "a:b:c"]
)
def test_what_is_no_uri_is_named_in_the_error(uri: str):
    with pytest.raises(ImageError, match="is not an image URI") as caught:
        parse(uri)
    assert repr(uri) in str(caught.value)


def test_a_sibling_keeps_the_registry():
    assert parse("123456789012.dkr.ecr.us-east-1.amazonaws.com/a:1").sibling("b", "2") == (
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/b:2"
    )
    assert parse("a:1").sibling("b", "2") == "b:2"

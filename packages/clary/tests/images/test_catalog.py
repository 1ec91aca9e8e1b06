"""What each image URI becomes, and what is said of those that become nothing."""

from __future__ import annotations

import pytest

from clary.images.catalog import resolve, resolve_by_name, resolve_for_smdistributed, resolve_serving
from clary.images.errors import ImageError
from clary.images.releases import cuda_lock, releases, serving_pins, tensorflow_lock

_AWS = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
_NEWEST = releases()[-1]


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("2.19-cpu-py312", "tensorflow-2.19.1-cpu-py312"),
        ("2.19.0-gpu-py312-cu125-ubuntu22.04-sagemaker", "tensorflow-2.19.0-cpu-py312"),
        ("2.21-cpu-py312", "tensorflow-2.21.0-cpu-py312"),
        ("2.13-cpu-py310", "tensorflow-2.13.1-cpu-py310"),
        ("2.15-cpu-py311", "tensorflow-2.15.1-cpu-py311"),
        ("2.9.2-gpu-py39-cu112-ubuntu20.04-sagemaker", "tensorflow-2.9.2-cpu-py39"),
        ("2.1-cpu-py3", "tensorflow-2.1.4-cpu-py37"),
        ("1.15.5-gpu-py37-cu100-ubuntu18.04", "tensorflow-1.15.5-cpu-py37"),
        ("1.14-gpu-py2", "tensorflow-1.14.0-cpu-py37"),
        ("1.14.0-gpu-py3", "tensorflow-1.14.0-cpu-py37"),
    ],
)
def test_tags_that_the_sdks_make(tag: str, name: str):
    image = resolve(f"{_AWS}/tensorflow-training:{tag}", gpu=False)
    assert image.name == name
    assert image.requirements[0].endswith(f"=={image.version}")


def test_account_and_region_do_not_matter():
    one = resolve(f"{_AWS}/tensorflow-training:2.19-cpu-py312")
    other = resolve("000000000000.dkr.ecr.ap-south-1.amazonaws.com/tensorflow-training:2.19-cpu-py312")
    assert one.folder == other.folder


def test_the_old_repositories_are_the_same_images():
    for repository in ("sagemaker-tensorflow-scriptmode", "sagemaker-tensorflow"):
        assert resolve(f"{repository}:1.14-cpu-py3").folder == resolve("tensorflow-training:1.14-cpu-py3").folder


def test_a_short_version_means_its_newest_patch_with_that_python():
    assert resolve("tensorflow-training:2.11-cpu-py39").version == "2.11.1"
    assert resolve("tensorflow-training:2.11-cpu-py37").version == "2.11.0"  # 2.11.1 has no wheel for 3.7


def test_an_exact_version_is_never_replaced():
    for release in releases():
        assert resolve(f"tensorflow-training:{release.version}-cpu-py3", gpu=False).version == release.version


def test_another_python_than_asked_is_said():
    (notice,) = resolve("tensorflow-training:1.14-cpu-py2").notices
    assert "asks for Python 2" in notice
    assert "Python 3.7" in notice
    (notice,) = resolve("tensorflow-training:1.15.5-cpu-py36").notices
    assert "asks for Python 3.6" in notice
    assert resolve("tensorflow-training:2.19-cpu-py312").notices == ()


def test_a_gpu_image_without_a_gpu_runs_on_the_cpu_and_says_so():
    image = resolve("tensorflow-training:2.19-gpu-py312", gpu=False)
    assert image.device == "cpu"
    assert "runs on the CPU" in image.notices[0]
    assert image.folder == resolve("tensorflow-training:2.19-cpu-py312").folder


def test_a_gpu_image_with_a_gpu_holds_cuda():
    image = resolve("tensorflow-training:2.19-gpu-py312", gpu=True)
    assert (image.device, image.notices) == ("gpu", ())
    assert "tensorflow==2.19.1" in image.requirements
    assert any(item.startswith("nvidia-cudnn-cu12==") for item in image.requirements)
    assert not any(item.startswith("tensorflow-cpu") for item in image.requirements)


def test_a_gpu_image_whose_cuda_is_on_no_index_says_so():
    image = resolve("tensorflow-training:1.14-gpu-py3", gpu=True)
    assert image.requirements[0] == "tensorflow-gpu==1.14.0"
    assert "libraries are not on this machine" in image.notices[0]


def test_keras_2_stands_beside_keras_3_from_2_16_on():
    for version in ("2.16.2", "2.18.1", "2.21.0"):
        packages = [item.partition("==")[0] for item in resolve(f"tensorflow-training:{version}-cpu").requirements]
        assert {"keras", "tf-keras"} <= set(packages)
    assert not any(item.startswith("tf-keras") for item in resolve("tensorflow-training:2.15.1-cpu").requirements)


def test_every_release_has_exact_packages_on_every_python_it_runs_on():
    for release in releases():
        for python in release.pythons:
            lock = tensorflow_lock(release, python)
            assert lock, f"{release.version} on {python}"
            assert all("==" in item for item in lock)
            names = {item.partition("==")[0] for item in lock}
            assert {"numpy", "pandas", "scikit-learn", "boto3", "h5py", "pillow", "pip", "tensorboard"} <= names
            assert not names & {"tensorflow", "tensorflow-cpu", "tensorflow-gpu"}
            if release.numbers >= (2, 5):
                assert cuda_lock(release, python), f"{release.version} on {python}"


def test_a_jobs_boto3_finds_this_server_whatever_its_age():
    for release in releases():
        lock = tensorflow_lock(release, release.pythons[0]) or ()
        (botocore,) = (item.partition("==")[2] for item in lock if item.startswith("botocore=="))
        assert tuple(int(part) for part in botocore.split(".")[:2]) >= (1, 31)  # the first to know AWS_ENDPOINT_URL


@pytest.mark.parametrize(
    ("uri", "reason", "nearest"),
    [
        (
            "520713654638.dkr.ecr.us-east-1.amazonaws.com/sagemaker-tensorflow-scriptmode:1.12-cpu-py3",
            "no wheel for Python 3.7",
            "520713654638.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:1.13.2-cpu-py37",
        ),
        ("tensorflow-training:2.16.0-cpu-py310", "none of the versions", "tensorflow-training:2.16.2-cpu-py310"),
        (
            "tensorflow-training:9.9-gpu-py399",
            "none of the versions",
            f"tensorflow-training:{_NEWEST.version}-gpu-py312",
        ),
        ("tensorflow-training:nightly", "names no TensorFlow version", None),
        ("tensorflow-trainin:2.19-cpu-py312", "no recipe", "tensorflow-training:2.19-cpu-py312"),
        ("tensorflow-inference:2.19-cpu", "cannot train", "tensorflow-training:2.19-cpu"),
        (f"{_AWS}/pytorch-training:2.8-gpu-py312", "It builds tensorflow-training", None),
        ("python:2.7", "images of Python 3.7 to", "python:3.7"),
        ("python:alpine", "names no Python version", "python:3.12"),
        ("tensorflow-training@sha256:" + "0a" * 32, "by a digest only", None),
    ],
)
def test_what_cannot_be_had_is_explained(uri: str, reason: str, nearest: str | None):
    with pytest.raises(ImageError, match=reason) as caught:
        resolve(uri)
    assert caught.value.nearest == nearest or nearest is None
    if caught.value.nearest:
        assert caught.value.nearest in str(caught.value)
        resolve(caught.value.nearest)  # what is suggested exists


def test_plain_pythons():
    assert resolve("python:3.9-slim").name == "python-py39"
    assert resolve("public.ecr.aws/docker/library/python:3.12").name == "python-py312"
    exact = resolve("python:3.11.7")
    assert exact.name == "python-py311"
    assert "patch version" in exact.notices[0]


def test_an_inference_image_is_the_environment_that_trains() -> None:
    serving = resolve_serving(f"{_AWS}/tensorflow-inference:2.19-cpu", gpu=False)
    training = resolve(f"{_AWS}/tensorflow-training:2.19-cpu-py312", gpu=False)
    assert serving.folder == training.folder
    assert resolve_serving(training.uri, gpu=False).folder == training.folder
    with pytest.raises(ImageError, match="it cannot train"):
        resolve(serving.uri, gpu=False)


def test_serving_adds_packages_and_leaves_the_environment_as_it_is() -> None:
    serving = resolve_serving("tensorflow-inference:2.21-cpu", gpu=False)
    training = resolve("tensorflow-training:2.21-cpu", gpu=False)
    assert training.serving == ()
    assert [pin.partition("==")[0] for pin in serving.serving] == ["openvino", "tensorflow-serving-api"]
    assert serving.requirements == training.requirements
    assert resolve_serving("python:3.12").serving == ()


def test_every_tensorflow_has_stubs_of_its_own_minor_version_and_openvino_where_its_python_can() -> None:
    for release in releases():
        for python in release.pythons:
            pins = dict(pin.split("==") for pin in serving_pins(release, python))
            assert pins["tensorflow-serving-api"].rpartition(".")[0] == release.minor
            assert ("openvino" in pins) == (python != "3.7")


def test_an_image_is_made_for_what_its_name_says():
    assert resolve_by_name("tensorflow-inference:2.19-cpu", gpu=False).serving
    assert not resolve_by_name("tensorflow-training:2.19-cpu-py312", gpu=False).serving


def test_jobs_for_sagemakers_distributed_libraries_leave_python_3_7() -> None:
    uri = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.4.1-gpu-py37-cu110-ubuntu18.04"
    image = resolve_for_smdistributed(uri, gpu=False)
    assert (image.uri, image.name) == (uri, "tensorflow-2.4.1-cpu-py38")
    assert image.notices[-1].endswith("TensorFlow 2.4.1 runs on it, not on 3.7.")
    assert any("is a GPU image" in notice for notice in image.notices)
    assert resolve_for_smdistributed("tensorflow-training:2.11-cpu-py39") == resolve(
        "tensorflow-training:2.11-cpu-py39"
    )
    assert resolve_for_smdistributed("tensorflow-training:2.1-cpu-py3").python == "3.7"  # no wheel for 3.8

"""Where an image of TensorFlow with CUDA's packages is told that these lie. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from clary.images import build
from clary.images.catalog import resolve
from clary.images.record import ImageRecord

_SITE_PACKAGES = "lib/python3/site-packages"


def _environment(root: Path, tag: str) -> dict[str, str]:
    """The variables of an image in which two of NVIDIA's packages are."""
    image = resolve(f"tensorflow-training:{tag}", gpu=True)
    for folder in ("cublas/lib", "cuda_nvcc/bin", "cuda_nvcc/nvvm", "cudnn/include", "cudnn/lib"):
        (root / _SITE_PACKAGES / "nvidia" / folder).mkdir(parents=True)
    made = ImageRecord(
        name=image.name,
        uri=image.uri,
        framework=image.framework,
        version=image.version,
        device=image.device,
        python=image.python,
        site_packages=_SITE_PACKAGES,
        outside=(),
        library_paths=build._library_paths(root, _SITE_PACKAGES, image),
        packages=image.requirements,
        created=0.0,
        seconds=0.0,
    )
    return build._built(image, root, made).environment


@pytest.mark.parametrize("tag", ["2.11-gpu", "2.13-gpu", "2.16-gpu", "2.21-gpu"])
def test_the_loader_is_shown_nvidia_s_libraries(tmp_path: Path, tag: str) -> None:
    nvidia = tmp_path / _SITE_PACKAGES / "nvidia"
    assert _environment(tmp_path, tag)["LD_LIBRARY_PATH"] == f"{nvidia}/cublas/lib:{nvidia}/cudnn/lib"


def test_xla_is_shown_the_compiler_where_it_would_not_look(tmp_path: Path) -> None:
    compiler = tmp_path / "2.13" / _SITE_PACKAGES / "nvidia" / "cuda_nvcc"
    assert _environment(tmp_path / "2.13", "2.13-gpu")["XLA_FLAGS"] == f"--xla_gpu_cuda_data_dir={compiler}"
    assert "XLA_FLAGS" not in _environment(tmp_path / "2.16", "2.16-gpu")


def test_an_image_for_the_cpu_has_neither(tmp_path: Path) -> None:
    image = resolve("tensorflow-training:2.13-cpu", gpu=True)
    assert build._library_paths(tmp_path, _SITE_PACKAGES, image) == ()

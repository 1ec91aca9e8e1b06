"""Images of the user's own: which one a URI means, and how an engine is found that runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clary.images.catalog import resolve
from clary.images.engine import EngineUnavailable, Wish, find
from clary.images.errors import ImageError
from clary.images.own import OwnImage, choose, find_own, list_own

sys.path.insert(0, str(Path(__file__).parents[1]))
import own_image

ECR = "000000000000.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def tagged() -> Iterator[Callable[[str], str]]:
    """Gives the test image a further name in the store; returns the image's ID."""
    engine, names = own_image.engine(), []

    def tag(name: str, image: str | None = None) -> str:
        engine.call("tag", image or own_image.own_image(), name)
        names.append(name)
        return find_own(image or own_image.own_image(), own_image.HOME).id

    yield tag
    for name in names:
        engine.call("untag" if not engine.is_docker else "rmi", *([] if engine.is_docker else [name]), name)


def test_a_uri_is_looked_for_by_its_full_name_first(tagged: Callable[..., str]) -> None:
    tagged("localhost/clary-test/digits:1")
    other = tagged(f"{ECR}/clary-test/digits:1", own_image.plain_image())
    found = find_own(f"{ECR}/clary-test/digits:1", own_image.HOME)
    assert (found.id, found.name) == (other, f"{ECR}/clary-test/digits:1")


def test_a_uri_is_looked_for_without_its_registry_next(tagged: Callable[..., str]) -> None:
    identity = tagged("localhost/clary-test/flowers:latest")
    for uri in (f"{ECR}/clary-test/flowers", "clary-test/flowers:latest", "registry.example:5000/clary-test/flowers"):
        assert find_own(uri, own_image.HOME).id == identity
    for uri in (f"{ECR}/flowers", f"{ECR}/clary-test/flowers:2", f"{ECR}/other/clary-test/flowers"):
        with pytest.raises(ImageError, match=r"has no image .* nor one called"):
            find_own(uri, own_image.HOME)


def test_an_image_says_what_is_in_it() -> None:
    image = find_own(own_image.own_image(), own_image.HOME)
    assert image.environment["OWN"] == "image"
    assert image.entrypoint == ("/bin/own",)
    assert image.labels["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"
    assert own_image.own_image() in [listed.name for listed in list_own(own_image.HOME)]


def test_a_framework_s_recipe_comes_before_the_store(tagged: Callable[..., str]) -> None:
    tagged("localhost/tensorflow-training:2.19-cpu-py312")
    assert not isinstance(choose("tensorflow-training:2.19-cpu-py312", resolve, own_image.HOME), OwnImage)
    tagged("localhost/tensorflow-training:of-mine")
    assert isinstance(choose(f"{ECR}/tensorflow-training:of-mine", resolve, own_image.HOME), OwnImage)
    with pytest.raises(ImageError, match="none of the versions on PyPI"):
        choose("tensorflow-training:99.1-cpu", resolve, own_image.HOME)


def test_without_an_engine_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no-such-engine is not installed.*apt-get install podman"):
        find_own("my-image:1", tmp_path, Wish("no-such-engine"))


FAKE = """#!/bin/sh
folder=$(dirname "$0")
[ -e "$folder/daemon-is-down" ] && { echo "Error: the daemon is down" >&2; exit 125; }
until echo " image import create init rm " | grep -q " $1 "; do shift; done
case "$1" in
  image) exit 1 ;;
  create) echo "$@" > "$folder/made" ;;
  init) for word in $(cat "$folder/refused"); do
      grep -q -e "$word" "$folder/made" && { echo "Error: cannot set $word" >&2; exit 126; }
    done
    needed=$(cat "$folder/needed")
    grep -q -e "$needed" "$folder/made" || { echo "Error: setting rlimits: not permitted" >&2; exit 126; } ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Wish]:
    """A podman of a machine that needs, or refuses, certain words: it stands for machines that are not here."""

    def make(needed: str = "", refused: str = "") -> Wish:
        program = tmp_path / "podman"
        program.write_text(FAKE)
        program.chmod(0o755)
        (tmp_path / "needed").write_text(needed)
        (tmp_path / "refused").write_text(refused)
        return Wish(str(program))

    return make


def test_what_a_machine_needs_is_found_by_trying_and_kept(machine: Callable[..., Wish], tmp_path: Path) -> None:
    home = tmp_path / "images"
    wish = machine(needed="nofile=1024:1024")
    engine = find(home, wish)
    assert engine.create_options == ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
    (tmp_path / "daemon-is-down").touch()
    assert find(home) == engine
    with pytest.raises(EngineUnavailable, match="the daemon is down"):
        find(home, Wish(wish.engine, "--annotation a=b"))


def test_a_limit_that_a_machine_cannot_set_is_left_out(machine: Callable[..., Wish], tmp_path: Path) -> None:
    engine = find(tmp_path / "images", machine(refused="--memory-swap"))
    assert engine.limits == ("--memory", "--cpus")
    assert engine.create_options == ()


def test_words_of_the_settings_are_used_as_they_are(machine: Callable[..., Wish], tmp_path: Path) -> None:
    wish = machine(needed="--annotation a=b")
    engine = find(tmp_path / "images", Wish(f"{wish.engine} --log-level error", "--annotation a=b"))
    assert (engine.options, engine.create_options) == (("--log-level", "error"), ("--annotation", "a=b"))


def test_a_machine_where_nothing_helps_says_what_was_said_first(machine: Callable[..., Wish], tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"does not work on this machine .*setting rlimits"):
        find(tmp_path / "images", machine(needed="nothing-helps"))

"""The /opt/ml tree and its files."""

from __future__ import annotations

import json
from collections.abc import Callable

from clary.host import layout
from clary.host.spec import Channel, Checkpoint, Peer

MakeHost = Callable[..., "Host"]  # noqa: F821 (of conftest, which tests do not import)


def test_the_files_are_those_of_the_contract(make_host: MakeHost) -> None:
    host = make_host(
        channels=(
            Channel(name="train", s3_uri="s3://b/t"),
            Channel(name="eval", s3_uri="s3://b/e", content_type="x/y"),
        ),
        hyperparameters={"epochs": "5", "sagemaker_program": '"train.py"'},
        config_files={"debughookconfig.json": '{"LocalPath": "/opt/ml/output/tensors"}'},
        checkpoint=Checkpoint(s3_uri="s3://b/c"),
    )
    folder = layout.HostFolder(host.folder)
    layout.create(folder, host.spec, "eth0")
    config = folder.opt_ml / "input" / "config"
    assert json.loads((config / "hyperparameters.json").read_text()) == host.spec.hyperparameters
    assert json.loads((config / "inputdataconfig.json").read_text()) == {
        "train": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"},
        "eval": {
            "ContentType": "x/y",
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        },
    }
    assert json.loads((config / "resourceconfig.json").read_text()) == {
        "current_host": "algo-1",
        "current_instance_type": "ml.m5.large",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1"],
        "instance_groups": [
            {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.large", "hosts": ["algo-1"]}
        ],
        "network_interface_name": "eth0",
        "topology": None,
    }
    assert (config / "debughookconfig.json").exists()
    assert (folder.opt_ml / "checkpoints").is_dir()
    assert not (folder.opt_ml / "output" / "intermediate").exists()  # the toolkit uploads it itself where it is missing


def test_hosts_are_in_the_order_of_their_numbers(make_host: MakeHost) -> None:
    peers = tuple(
        Peer(name=f"algo-{n}", instance_type="t", instance_group="a" if n < 3 else "b") for n in (1, 2, 3, 10, 11)
    )
    config = layout.resource_config(make_host(peers=peers, host="algo-10").spec, "eth0")
    assert config["hosts"] == ["algo-1", "algo-2", "algo-3", "algo-10", "algo-11"]
    assert config["current_group_name"] == "b"
    assert [group["hosts"] for group in config["instance_groups"]] == [
        ["algo-1", "algo-2"],
        ["algo-3", "algo-10", "algo-11"],
    ]

"""The durable queue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clary.host import spool as spool_module
from clary.host.spool import Spool, read_records


def test_records_are_handed_out_until_they_are_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "logs.jsonl")
    spool.append([{"message": "a" * 100} for _ in range(10)])
    batch, first = spool.batch(max_bytes=350)
    assert first == 0
    assert [json.loads(record)["sequence"] for record in batch] == [0, 1]
    spool.acknowledge(2)
    assert json.loads(spool.batch()[0][0])["sequence"] == 2
    spool.acknowledge(10)
    assert spool.batch() == ([], 10)


def test_a_record_larger_than_a_batch_is_handed_out_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "logs.jsonl")
    spool.append([{"message": "x" * 10_000}])
    assert len(spool.batch(max_bytes=100)[0]) == 1


def test_a_server_that_lost_records_gets_them_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "logs.jsonl")
    spool.append([{"message": str(number)} for number in range(5)])
    spool.acknowledge(5)
    spool.acknowledge(3)
    assert [json.loads(record)["message"] for record in spool.batch()[0]] == ["3", "4"]


def test_another_process_reads_what_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "logs.jsonl"
    Spool(path).append([{"message": "whole"}])
    with path.open("a") as file:
        file.write('{"sequence": 1, "mess')
    assert read_records(path) == [{"sequence": 0, "message": "whole"}]


def test_what_the_server_has_for_long_takes_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "KEPT_BYTES", 1 << 20)
    path = tmp_path / "logs.jsonl"
    spool = Spool(path)
    for number in range(100):
        spool.append([{"message": f"{number}-" + "x" * 100_000}])
        spool.acknowledge(number)
    assert path.stat().st_size > 9_900_000
    assert path.stat().st_blocks * 512 < 3_500_000
    assert [json.loads(record)["message"][:3] for record in spool.batch()[0]] == ["99-"]
    spool.acknowledge(98)  # a server that is set back a little
    assert [json.loads(record)["sequence"] for record in spool.batch()[0]] == [98, 99]
    kept = read_records(path)
    assert kept[-1]["sequence"] == 99
    assert len(kept) == kept[-1]["sequence"] - kept[0]["sequence"] + 1 >= 10

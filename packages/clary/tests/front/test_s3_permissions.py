"""What a job's credentials may do in S3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

BUCKET = "places-of-jobs"
THEIRS = "out/their-job/output/model.tar.gz"


@pytest.fixture(scope="module")
def front(s3_front: Any) -> Iterator[Any]:
    s3 = s3_front.client()
    s3.create_bucket(Bucket=BUCKET)
    for key in (THEIRS, "out/our-job/output/model.tar.gz", "data/train.csv"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    s3_front.owners.update({"their-job": set(), "our-job": {f"s3://{BUCKET}/", f"s3://{BUCKET}/data/"}})
    s3_front.owners["heir"] = {f"s3://{BUCKET}/out/their-job/output/model.tar.gz"}
    yield s3_front
    s3_front.owners.clear()


def refusal(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return caught.value.response["Error"]["Message"]


def test_a_job_uses_its_own_places_and_shared_ones(front: Any) -> None:
    s3 = front.client(job="our-job")
    s3.put_object(Bucket=BUCKET, Key="out/our-job/checkpoints/1", Body=b"x")
    assert s3.get_object(Bucket=BUCKET, Key="data/train.csv")["Body"].read() == b"x"
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="out/our-job/")["KeyCount"] >= 1


def test_another_jobs_objects_are_refused_with_the_reason(front: Any) -> None:
    s3 = front.client(job="our-job")
    text = refusal(s3.get_object, Bucket=BUCKET, Key=THEIRS)
    assert "s3:GetObject" in text
    assert "it belongs to the training job their-job" in text
    refusal(s3.put_object, Bucket=BUCKET, Key=THEIRS, Body=b"")
    refusal(s3.delete_object, Bucket=BUCKET, Key=THEIRS)
    refusal(s3.head_object, Bucket=BUCKET, Key=THEIRS)
    refusal(s3.list_objects_v2, Bucket=BUCKET, Prefix="out/their-job/")
    refusal(s3.list_objects, Bucket=BUCKET, Prefix="out/their-job")


def test_ways_around_are_refused_too(front: Any) -> None:
    s3 = front.client(job="our-job")
    refusal(s3.copy_object, Bucket=BUCKET, Key="out/our-job/stolen", CopySource={"Bucket": BUCKET, "Key": THEIRS})
    refusal(s3.delete_objects, Bucket=BUCKET, Delete={"Objects": [{"Key": "data/x"}, {"Key": THEIRS}]})
    refusal(s3.create_multipart_upload, Bucket=BUCKET, Key=THEIRS)
    assert front.client().get_object(Bucket=BUCKET, Key=THEIRS)["Body"].read() == b"x"


def test_a_job_may_use_what_its_request_names(front: Any) -> None:
    s3 = front.client(job="heir")
    assert s3.get_object(Bucket=BUCKET, Key=THEIRS)["Body"].read() == b"x"
    refusal(s3.get_object, Bucket=BUCKET, Key="out/their-job/output/output.tar.gz")


def test_a_person_may_use_everything(front: Any) -> None:
    assert front.client().get_object(Bucket=BUCKET, Key=THEIRS)["Body"].read() == b"x"


def test_deleting_many_objects_of_ones_own_works(front: Any) -> None:
    s3 = front.client(job="our-job")
    s3.put_object(Bucket=BUCKET, Key="out/our-job/a", Body=b"x")
    assert s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "out/our-job/a"}]})["Deleted"]

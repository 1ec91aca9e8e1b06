"""Settings of buckets that the store does not know, as boto3 sees them before a real store."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

BLOCK = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)


def refusal(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_public_access_is_blocked_and_may_be_blocked_again(s3: Any, bucket: str) -> None:
    put = s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=BLOCK)
    assert put["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == BLOCK


def test_public_access_cannot_be_allowed(s3: Any, bucket: str) -> None:
    some = {**BLOCK, "BlockPublicPolicy": False}
    code, message = refusal(s3.put_public_access_block, Bucket=bucket, PublicAccessBlockConfiguration=some)
    assert (code, "Expected true for BlockPublicAcls" in message) == ("AccessDenied", True)
    assert refusal(s3.delete_public_access_block, Bucket=bucket)[0] == "AccessDenied"
    assert s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == BLOCK


def test_a_missing_bucket_has_no_settings(s3: Any) -> None:
    assert refusal(s3.get_public_access_block, Bucket="no-such-bucket")[0] == "NoSuchBucket"
    empty = {"Bucket": "no-such-bucket", "BucketLoggingStatus": {}}
    assert refusal(s3.put_bucket_logging, **empty)[0] == "NoSuchBucket"
    assert refusal(s3.head_bucket, Bucket="no-such-bucket")[0] == "404"


def test_deleting_a_setting_leaves_the_bucket(s3: Any, bucket: str) -> None:
    for delete in (s3.delete_bucket_website, s3.delete_bucket_replication):
        assert delete(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    for delete in (
        s3.delete_bucket_analytics_configuration,
        s3.delete_bucket_intelligent_tiering_configuration,
        s3.delete_bucket_inventory_configuration,
        s3.delete_bucket_metrics_configuration,
    ):
        assert refusal(delete, Bucket=bucket, Id="x")[0] == "NoSuchConfiguration"
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_what_is_so_anyway_may_be_set(s3: Any, bucket: str) -> None:
    s3.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    s3.put_bucket_accelerate_configuration(Bucket=bucket, AccelerateConfiguration={"Status": "Suspended"})
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("put_bucket_logging", {"BucketLoggingStatus": {"LoggingEnabled": {"TargetBucket": "b", "TargetPrefix": "p"}}}),
        (
            "put_bucket_notification_configuration",
            {"NotificationConfiguration": {"TopicConfigurations": [{"TopicArn": "arn:aws:sns:a:1:t", "Events": []}]}},
        ),
        ("put_bucket_accelerate_configuration", {"AccelerateConfiguration": {"Status": "Enabled"}}),
        ("put_bucket_website", {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "index.html"}}}),
        ("put_bucket_replication", {"ReplicationConfiguration": {"Role": "arn:aws:iam::1:role/r", "Rules": []}}),
        ("put_bucket_metrics_configuration", {"Id": "x", "MetricsConfiguration": {"Id": "x"}}),
    ],
)
def test_what_the_store_does_not_do_is_refused_by_its_name(
    s3: Any, bucket: str, operation: str, arguments: dict[str, Any]
) -> None:
    code, message = refusal(getattr(s3, operation), Bucket=bucket, **arguments)
    assert (code, message.startswith("The store of Clary has no ")) == ("NotImplemented", True)


def test_the_settings_that_the_store_knows_still_reach_it(s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    (said,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert said["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "a", "Value": "b"}]

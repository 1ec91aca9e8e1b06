"""The S3 front as boto3 sees it, before a real store."""

from __future__ import annotations

import http.client
import io
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError


def code_of(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def test_an_object_comes_back_as_it_was_put(s3: Any, bucket: str) -> None:
    put = s3.put_object(Bucket=bucket, Key="a/b.txt", Body=b"hello", Metadata={"colour": "blue"}, ContentType="text/x")
    got = s3.get_object(Bucket=bucket, Key="a/b.txt")
    assert got["Body"].read() == b"hello"
    assert got["ETag"] == put["ETag"]
    assert (got["ContentType"], got["Metadata"]) == ("text/x", {"colour": "blue"})


def test_an_object_without_content_type_has_s3s_default(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="plain.txt", Body=b"x")
    assert s3.head_object(Bucket=bucket, Key="plain.txt")["ContentType"] == "binary/octet-stream"


def test_a_folder_marker_can_be_copied(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="model/tmp 1/", Body=b"", ContentType="text/x")
    source = {"Bucket": bucket, "Key": "model/tmp 1/"}
    copied = s3.copy_object(Bucket=bucket, Key="model/1/", CopySource=source)["CopyObjectResult"]
    got = s3.head_object(Bucket=bucket, Key="model/1/")
    assert (got["ETag"], got["ContentType"], got["ContentLength"]) == (copied["ETag"], "text/x", 0)
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="model/")["Contents"]
    assert [entry["Key"] for entry in listed] == ["model/1/", "model/tmp 1/"]


def test_a_folder_marker_that_is_not_there_cannot_be_copied(s3: Any, bucket: str) -> None:
    assert code_of(s3.copy_object, Bucket=bucket, Key="b/", CopySource=f"{bucket}/a/") == "NoSuchKey"


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 20, 3_000_001])
def test_bodies_of_any_size_pass(s3: Any, bucket: str, size: int) -> None:
    content = os.urandom(size)
    s3.put_object(Bucket=bucket, Key="sized", Body=content)
    assert s3.get_object(Bucket=bucket, Key="sized")["Body"].read() == content


@pytest.mark.parametrize("key", ["a b+c%d/é ü#?&=.txt", "~t*'()!", "日本/語.txt", "deep/" * 20 + "x", "a=b&c", "100%"])
def test_keys_with_odd_characters_pass(s3: Any, bucket: str, key: str) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [found["Key"] for found in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]


def test_high_level_transfers_go_in_parts_both_ways(s3: Any, bucket: str) -> None:
    content = os.urandom(20 << 20)
    settings = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(content), bucket, "big", Config=settings)
    head = s3.head_object(Bucket=bucket, Key="big")
    assert (head["ContentLength"], head["ETag"][-3:]) == (len(content), '-4"')
    back = io.BytesIO()
    s3.download_fileobj(bucket, "big", back, Config=settings)
    assert back.getvalue() == content


def test_ranges_and_conditions_hold(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")["ETag"]
    part = s3.get_object(Bucket=bucket, Key="k", Range="bytes=2-4")
    assert (part["Body"].read(), part["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=-3")["Body"].read() == b"789"
    assert code_of(s3.get_object, Bucket=bucket, Key="k", Range="bytes=20-30") == "InvalidRange"
    assert code_of(s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag) == "304"
    assert code_of(s3.get_object, Bucket=bucket, Key="k", IfMatch='"0"') == "PreconditionFailed"
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x", IfNoneMatch="*") == "PreconditionFailed"


@pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=90-", "bytes=90-5000", "bytes=-10", "bytes=99-99"])
def test_head_and_get_agree_about_a_part(s3: Any, bucket: str, wanted: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=bytes(range(100)))
    got = s3.get_object(Bucket=bucket, Key="k", Range=wanted)
    told = s3.head_object(Bucket=bucket, Key="k", Range=wanted)
    assert told["ContentLength"] == got["ContentLength"] == len(got["Body"].read())
    assert told["ResponseMetadata"]["HTTPHeaders"]["content-range"] == got["ContentRange"]
    assert told["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 100
    assert code_of(s3.head_object, Bucket=bucket, Key="k", Range="bytes=100-199") == "416"


def test_copies_tags_and_batch_deletion_work(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 100)
    s3.copy_object(Bucket=bucket, Key="copy of k", CopySource={"Bucket": bucket, "Key": "k"})
    assert s3.get_object(Bucket=bucket, Key="copy of k")["Body"].read() == b"x" * 100
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "b"}]
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}, {"Key": "copy of k"}]})
    assert sorted(found["Key"] for found in gone["Deleted"]) == ["copy of k", "k"]
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_part_can_be_copied_from_an_object(s3: Any, bucket: str) -> None:
    content = os.urandom(6 << 20)
    s3.put_object(Bucket=bucket, Key="source", Body=content)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="target")["UploadId"]
    part = s3.upload_part_copy(
        Bucket=bucket, Key="target", UploadId=upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"}
    )["CopyPartResult"]["ETag"]
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="target", UploadId=upload, MultipartUpload={"Parts": [{"ETag": part, "PartNumber": 1}]}
    )
    assert s3.get_object(Bucket=bucket, Key="target")["Body"].read() == content
    assert done["Location"].startswith(s3.meta.endpoint_url)


def test_an_aborted_upload_leaves_nothing(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x")
    assert [found["UploadId"] for found in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    s3.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    assert code_of(s3.head_object, Bucket=bucket, Key="k") == "404"


def test_both_listings_page_and_group(s3: Any, bucket: str) -> None:
    for name in ("a/1", "a/2", "b/1", "top"):
        s3.put_object(Bucket=bucket, Key=name, Body=b"x")
    grouped = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [found["Prefix"] for found in grouped["CommonPrefixes"]] == ["a/", "b/"]
    assert [found["Key"] for found in grouped["Contents"]] == ["top"]
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
    assert [found["Key"] for page in pages for found in page["Contents"]] == ["a/1", "a/2", "b/1", "top"]
    assert [found["Key"] for found in s3.list_objects(Bucket=bucket, Prefix="a/")["Contents"]] == ["a/1", "a/2"]


def test_buckets_have_the_region_and_can_be_made_again(s3: Any, bucket: str) -> None:
    s3.create_bucket(Bucket=bucket)  # no error in us-east-1
    s3.create_bucket(Bucket=f"{bucket}-c", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    assert code_of(s3.get_bucket_location, Bucket="missing-bucket") == "NoSuchBucket"
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "us-east-1"
    assert bucket in [found["Name"] for found in s3.list_buckets()["Buckets"]]


def test_errors_have_s3s_codes(s3: Any, bucket: str) -> None:
    assert code_of(s3.head_object, Bucket=bucket, Key="none") == "404"
    assert code_of(s3.head_bucket, Bucket="missing-bucket") == "404"
    assert code_of(s3.get_object, Bucket=bucket, Key="none") == "NoSuchKey"
    assert code_of(s3.get_object, Bucket="missing-bucket", Key="none") == "NoSuchBucket"
    assert code_of(s3.put_object, Bucket="missing-bucket", Key="none", Body=b"x") == "NoSuchBucket"
    assert code_of(s3.list_objects_v2, Bucket="missing-bucket") == "NoSuchBucket"
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert code_of(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5="A" * 22 + "==") == "BadDigest"


def test_the_expected_owner_is_checked(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ExpectedBucketOwner="000000000000")
    s3.head_bucket(Bucket=bucket, ExpectedBucketOwner="000000000000")
    assert code_of(s3.head_bucket, Bucket=bucket, ExpectedBucketOwner="111111111111") == "403"
    assert code_of(s3.get_object, Bucket=bucket, Key="k", ExpectedBucketOwner="111111111111") == "AccessDenied"


@pytest.mark.parametrize("key_id", [{}, {"SSEKMSKeyId": "arn:aws:kms:us-east-1:000000000000:key/mine"}])
def test_kms_encryption_works_with_and_without_a_key(s3: Any, bucket: str, key_id: dict[str, str]) -> None:
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"secret", ServerSideEncryption="aws:kms", **key_id)
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"secret"
    assert got["ServerSideEncryption"] == put["ServerSideEncryption"] == "aws:kms"
    assert got["SSEKMSKeyId"] == put["SSEKMSKeyId"]
    assert got["SSEKMSKeyId"].startswith("arn:aws:kms:us-east-1:000000000000:key/")
    assert got["Metadata"] == {}


def test_large_uploads_with_kms_work(s3: Any, bucket: str) -> None:
    content = os.urandom(12 << 20)
    settings = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    extra = {"ServerSideEncryption": "aws:kms"}
    s3.upload_fileobj(io.BytesIO(content), bucket, "big", Config=settings, ExtraArgs=extra)
    got = s3.get_object(Bucket=bucket, Key="big")
    assert (got["Body"].read(), got["ServerSideEncryption"]) == (content, "aws:kms")
    middle = s3.get_object(Bucket=bucket, Key="big", Range="bytes=5242870-5242890")["Body"].read()
    assert middle == content[5242870:5242891]


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_links_read_and_write(s3_front: Any, bucket: str, version: str) -> None:
    s3 = s3_front.client(config=Config(signature_version=version))
    link = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "by link/é"}, ExpiresIn=60)
    request = urllib.request.Request(link, data=b"by link", method="PUT")
    if version == "s3":
        request.add_header("Content-Type", "")
    assert urllib.request.urlopen(request).status == 200
    params = {"Bucket": bucket, "Key": "by link/é", "ResponseContentType": "text/plain"}
    link = s3.generate_presigned_url("get_object", Params=params, ExpiresIn=60)
    with urllib.request.urlopen(link) as response:
        assert (response.read(), response.headers["content-type"]) == (b"by link", "text/plain")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(link.replace("by%20link", "other"))
    assert caught.value.code == 403


def test_checksums_are_kept_and_checked(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ChecksumAlgorithm="SHA256")
    assert "ChecksumSHA256" in s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert code_of(s3.put_object, Bucket=bucket, Key="bad", Body=b"x", ChecksumCRC32="AAAAAA==") == "BadDigest"
    assert code_of(s3.head_object, Bucket=bucket, Key="bad") == "404"


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_tampered_body_is_refused_and_never_seen(s3_front: Any, s3: Any, bucket: str, size: int) -> None:
    captured: dict[str, Any] = {}

    def capture(request: Any, **_: Any) -> None:
        captured.update(path=urlsplit(request.url).path, headers=dict(request.headers.items()), body=request.body)

    client = s3_front.client()
    client.meta.events.register("before-send.s3.PutObject", capture)
    client.put_object(Bucket=bucket, Key="k", Body=b"a" * size)
    client.delete_object(Bucket=bucket, Key="k")
    headers = {name: value for name, value in captured["headers"].items() if name != "Expect"}
    connection = http.client.HTTPConnection(urlsplit(s3_front.url).netloc)
    connection.request("PUT", captured["path"], body=b"a" * (size - 1) + b"b", headers=headers)
    response = connection.getresponse()
    assert (response.status, b"XAmzContentSHA256Mismatch" in response.read()) == (400, True)
    assert code_of(s3.head_object, Bucket=bucket, Key="k") == "404"


def test_an_upload_that_its_client_breaks_off_is_never_seen(s3_front: Any, s3: Any, bucket: str) -> None:
    link = s3_front.client(config=Config(signature_version="s3v4")).generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": "half"}, ExpiresIn=60
    )
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b"x" * 500_000)
    connection.close()
    assert code_of(s3.head_object, Bucket=bucket, Key="half") == "404"


def test_a_body_of_unknown_length_is_asked_for_its_length(s3_front: Any, bucket: str) -> None:
    link = s3_front.client(config=Config(signature_version="s3v4")).generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60
    )
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("PUT", f"{parts.path}?{parts.query}", body=iter([b"abc"]), encode_chunked=True)
    assert connection.getresponse().status == 411


def test_a_bucket_may_ask_for_kms_by_default(s3: Any, bucket: str) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "mine"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x" * 1000)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x" * 1000


def test_requests_wait_for_a_store_that_is_restarted(s3: Any, bucket: str, embedded_store: Any) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    os.kill(embedded_store.pid, signal.SIGKILL)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"
    os.kill(embedded_store.pid, signal.SIGKILL)
    s3.put_object(Bucket=bucket, Key="k", Body=b"after" * 1_000_000)
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 5_000_000


def test_an_upload_that_the_store_breaks_off_is_repeated_by_the_client(
    s3: Any, bucket: str, embedded_store: Any, tmp_path: Path
) -> None:
    class Killing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            piece = super().read(size)
            if armed and self.tell() > 10 << 20:
                os.kill(armed.pop(), signal.SIGKILL)
            return piece

    armed = [embedded_store.pid]
    content = os.urandom(20 << 20)
    s3.put_object(Bucket=bucket, Key="k", Body=Killing(content))
    assert not armed
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == content

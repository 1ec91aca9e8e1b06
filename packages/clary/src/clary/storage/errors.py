"""What can go wrong with the store.

StoreError                 any of these
├── BucketMissing          there is no such bucket
├── ObjectMissing          there is no such object
├── StoreRefused           the store answered with another error
└── StoreUnreachable       no answer, for longer than the client's patience
"""

from __future__ import annotations


class StoreError(Exception):
    """A request to the object store failed; the message is a sentence for the user."""


class BucketMissing(StoreError):
    def __init__(self, bucket: str) -> None:
        super().__init__(f'The bucket "{bucket}" does not exist.')
        self.bucket = bucket


class ObjectMissing(StoreError):
    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"There is no object s3://{bucket}/{key}.")
        self.bucket, self.key = bucket, key


class StoreRefused(StoreError):
    def __init__(self, code: str, message: str, status: int, where: str) -> None:
        super().__init__(f"The object store refused {where}: {code}: {message}")
        self.code, self.status = code, status


class StoreUnreachable(StoreError):
    pass

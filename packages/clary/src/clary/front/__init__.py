"""The public port: authenticates each request once (SigV4), streams S3 to the store, passes API operations to `wire`.

Calls `wire` and `storage`; the handlers come in as a table.
"""

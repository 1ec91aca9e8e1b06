"""The public port: authenticates each request once (SigV4), streams S3 to the store, passes API operations on.

The front's own process and the API process are put together of it in `server`. Calls `wire`, `storage` and
`inference`; what answers comes in as callables.
"""

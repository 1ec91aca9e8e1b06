"""One module per resource family, one function per API operation, named after it.

A function reads and writes `state` and answers; it never calls `cluster` or `lifecycle`: controllers see the record.
Called by `wire` through the table in `services.registry`.
"""

"""The object store: an embedded SeaweedFS process, or any S3 by URL, and the one client that all of Clary uses.

Called by `front`, `services` (does this prefix exist?), `lifecycle` and `host`. Calls nothing of clary but `settings`.
"""

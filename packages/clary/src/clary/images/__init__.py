"""From an image URI to something runnable: framework environments built by uv.

Called by `lifecycle` (which version, does it exist), `host` (the runnable) and `cli`. Calls nothing of clary but
`settings`.
"""

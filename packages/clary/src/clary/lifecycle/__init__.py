"""A controller per resource: compares what is wanted with what is, takes the next step, records it.

Every step may be repeated after a crash. Called by the server's main loop; calls `state`, `cluster` and `storage`.
"""

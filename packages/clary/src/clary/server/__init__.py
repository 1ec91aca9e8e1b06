"""A running server: a parent that holds the public port, and the two processes that it watches, the front and the API.

Here the other rooms are put together, so that it may call all of them but the command line. Nothing imports it except
for `python -m clary.server`, which `clary up` runs.
"""

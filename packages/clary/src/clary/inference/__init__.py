"""The data plane: from an authenticated InvokeEndpoint to a replica's server and back.

Called by `front`. It reads a routing table that it keeps in memory and never opens the database for a request; it may
use `wire` and the data types of `state.routing`. Its `connection`, which imports nothing of these, is the hosts' too.
"""

"""One host of a job: its sandbox, supervisor, input channels, log shipping and outputs.

Started by `cluster` as `python -m clary.host FOLDER`, in a process of its own that outlives the server.
Talks to the store and, by signed reports, to the server; never opens the database.
"""

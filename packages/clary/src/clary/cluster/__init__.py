"""Where hosts run: this machine (`local`), later a Ray cluster. `base` states the contract of both.

Called by `lifecycle`. Starts `host` processes; never opens the database.
"""

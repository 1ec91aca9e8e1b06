"""The database's changes from version to version, applied by `state.migrate`.

`versions/` holds one file a change, named `NNNN_what.py`; its number is its revision.
"""

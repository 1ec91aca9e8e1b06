"""The AWS protocols, from bytes to checked Python values and back, driven by botocore's service models.

Called by `front`; knows nothing of what services do: it is handed a table of handlers. Calls nothing of clary.
"""

"""smdistributed.modelparallel.torch, which Clary does not offer."""

raise ImportError(
    "smdistributed.modelparallel.torch is not offered by Clary: use smdistributed.modelparallel.tensorflow."
)

"""SageMaker's distributed libraries, carried out by clary_parallel.

A namespace that other folders may add packages to (smdistributed.modelparallel).
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

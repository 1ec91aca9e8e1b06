"""How ranks exchange numpy buffers: one interface, one implementation per way of running ranks.

Called by the data parallel and model parallel halves; knows nothing of TensorFlow, models or schedules.
"""

from clary_parallel.transport.base import Operation, Request, Transport

__all__ = ["Operation", "Request", "Transport"]

"""Times the exchange of 1, 8 and 45 MB of gradients, in tensors of half a megabyte, without a model around it."""

import os
import time

import numpy as np
from timing import pin, write

rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
pin(rank)

from clary_parallel.data.agreement import Call  # noqa: E402
from clary_parallel.data.fusion import Pool, allreduce_fused  # noqa: E402
from clary_parallel.data.world import agreement, init  # noqa: E402

init()
pool = Pool()
for megabytes in (1, 8, 45):
    tensors = [np.ones(125_000, np.float32) for _ in range(2 * megabytes)]
    times = []
    for _ in range(30):
        agreement().transport.barrier()
        began = time.perf_counter()
        agreement().agree(Call("exchange"))
        allreduce_fused(agreement().transport, tensors, 16.0, pool)
        times.append(time.perf_counter() - began)
    write(f"exchange {megabytes}", rank, times)

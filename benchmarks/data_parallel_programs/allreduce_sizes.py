"""Times a sum over ranks of 16, 64 and 256 MB: our transport beside one bare MPI_Allreduce on the same buffer."""

import os
import time

import numpy as np
from timing import pin, write

rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
pin(rank)

from mpi4py import MPI  # noqa: E402

from clary_parallel.transport.mpi import connect  # noqa: E402

transport = connect()
for megabytes in (16, 64, 256):
    buffer = np.ones(megabytes * 250_000, np.float32)
    ours, bare = [], []
    for _ in range(11):
        for times in (ours, bare):
            buffer[:] = 1
            transport.barrier()
            began = time.perf_counter()
            if times is ours:
                transport.allreduce(buffer)
            else:
                MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, buffer)
            times.append(time.perf_counter() - began)
    write(f"ours {megabytes}", rank, ours)
    write(f"bare {megabytes}", rank, bare)
transport.close()

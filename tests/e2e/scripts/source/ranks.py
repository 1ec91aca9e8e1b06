"""Ranks of MPI: they add up their numbers; with --broken the last one raises while the others wait."""

import argparse
import os
import sys

import numpy as np
from mpi4py import MPI

parser = argparse.ArgumentParser()
parser.add_argument("--broken", default="")
parser.add_argument("--model_dir")
arguments = parser.parse_args()
world = MPI.COMM_WORLD
total = np.zeros(1)
world.Allreduce(np.array([world.rank + 1.0]), total)
print("rank=%d of=%d total=%.1f host=%s" % (world.rank, world.size, total[0], os.uname().nodename))
if arguments.broken and world.rank == world.size - 1:
    raise ValueError("this rank is broken")
if arguments.broken:
    world.Barrier()
if world.rank == 0:
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "total.txt"), "w") as file:
        file.write(str(total[0]))
    print("argv", sys.argv[1:])

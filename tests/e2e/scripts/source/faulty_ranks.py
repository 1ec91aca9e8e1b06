"""Keras `fit` on ranks of which one is killed in mid-epoch, alone or with its host, or halted, or that are to be stopped;
or of which one ends before it has come to MPI.
"""

import argparse
import os
import signal
import sys
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("--fault")
fault = parser.parse_known_args()[0].fault
if fault == "early" and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    sys.exit("the data is not there")
if fault == "stop":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # in every thread that is still to come

import clary_parallel  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

clary_parallel.init()
me = "rank %d on %s" % (clary_parallel.rank(), os.uname().nodename)


def await_stop():
    # A thread hears of it even while the main one waits for a rank that has ended already.
    signal.sigwait([signal.SIGTERM])
    # mpirun reads no more of what ranks print once one of them has ended.
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "stopped-%d" % clary_parallel.rank()), "w") as file:
        file.write(me)
    time.sleep(3)  # as long as saving takes: the end of one rank is the end of all
    os._exit(143)


if fault == "stop":
    threading.Thread(target=await_stop, daemon=True).start()


def kill_host():
    """Kill what all of this host's processes come from, as if the host had gone."""
    pid = os.getppid()
    while True:
        with open("/proc/%d/cmdline" % pid) as file:
            if any(word.endswith("/train") for word in file.read().split("\0")):
                os.kill(pid, signal.SIGKILL)
                return
        with open("/proc/%d/stat" % pid) as file:
            pid = int(file.read().rpartition(")")[2].split()[1])


class Fault(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            print(me, "is training", flush=True)
            if fault == "kill" and clary_parallel.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hang" and clary_parallel.rank() == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "host" and clary_parallel.rank() == 1:
                kill_host()


model = clary_parallel.data_parallel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
model.fit(np.ones((64, 4)), np.ones((64, 1)), batch_size=8, epochs=10**9, verbose=0, callbacks=[Fault()])

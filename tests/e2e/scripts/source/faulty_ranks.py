"""Keras `fit` on ranks of which one is killed in mid-epoch, or ranks that train until they are stopped."""

import argparse
import os
import signal

import clary_parallel
import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--fault")
fault = parser.parse_known_args()[0].fault

clary_parallel.init()
me = "rank %d on %s" % (clary_parallel.rank(), os.uname().nodename)


def told(number, frame):
    # mpirun reads no more of what ranks print once it was told to stop.
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "stopped-%d" % clary_parallel.rank()), "w") as file:
        file.write(me)
    os._exit(143)


signal.signal(signal.SIGTERM, told)


class Fault(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            print(me, "is training", flush=True)
            if fault == "kill" and clary_parallel.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)


model = clary_parallel.data_parallel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
model.fit(np.ones((64, 4)), np.ones((64, 1)), batch_size=8, epochs=10**9, verbose=0, callbacks=[Fault()])

"""A Keras MNIST program as users of Horovod write it, on made-up digits."""

import sys

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

hvd.init()

gpus = tf.config.experimental.list_physical_devices("GPU")
for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
if gpus:
    tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

random = np.random.default_rng(0)
digits = random.integers(0, 10, 256)
images = (random.normal(size=(256, 28, 28)) * 0.3 + digits[:, None, None] / 10).astype("float32")
dataset = tf.data.Dataset.from_tensor_slices((tf.cast(images[..., tf.newaxis], tf.float32), tf.cast(digits, tf.int64)))
dataset = dataset.repeat().shuffle(256, seed=hvd.rank()).batch(16)

model = tf.keras.Sequential(
    [
        tf.keras.layers.Conv2D(8, [3, 3], activation="relu"),
        tf.keras.layers.MaxPooling2D(pool_size=(4, 4)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)

scaled_lr = 0.002 * hvd.size()
opt = tf.keras.optimizers.Adam(scaled_lr)
opt = hvd.DistributedOptimizer(opt, backward_passes_per_step=1, average_aggregated_gradients=True)
model.compile(
    loss=tf.keras.losses.SparseCategoricalCrossentropy(),
    optimizer=opt,
    metrics=["accuracy"],
    experimental_run_tf_function=False,
)

callbacks = [
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    hvd.callbacks.MetricAverageCallback(),
    hvd.callbacks.LearningRateWarmupCallback(initial_lr=scaled_lr, warmup_epochs=2, verbose=1),
]
if hvd.rank() == 0:
    callbacks.append(tf.keras.callbacks.ModelCheckpoint(sys.argv[1] + "/checkpoint-{epoch}.keras"))
verbose = 1 if hvd.rank() == 0 else 0
history = model.fit(dataset, steps_per_epoch=16 // hvd.size(), callbacks=callbacks, epochs=3, verbose=verbose)

from rank_report import report  # noqa: E402

report(
    {
        "loss": history.history["loss"],
        "lr": history.history["lr"],
        "weights": [float(np.abs(weight).sum()) for weight in model.get_weights()],
    },
    hvd.rank(),
)

"""A training loop as users of SageMaker's data parallel library write it, on made-up digits."""

import numpy as np
import smdistributed.dataparallel.tensorflow as sdp
import tensorflow as tf
from smdistributed.dataparallel.tensorflow.keras import callbacks

tf.random.set_seed(42)
sdp.init()

random = np.random.default_rng(sdp.rank())
images = random.normal(size=(128, 28, 28, 1)).astype("float32")
labels = random.integers(0, 10, 128)
dataset = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().shuffle(128).batch(16)

mnist_model = tf.keras.Sequential(
    [tf.keras.layers.Conv2D(4, [3, 3]), tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)]
)
loss = tf.losses.SparseCategoricalCrossentropy(from_logits=True)
opt = tf.optimizers.Adam(0.000125 * sdp.size())


@tf.function
def training_step(images, labels, first_batch):
    with tf.GradientTape() as tape:
        probs = mnist_model(images, training=True)
        loss_value = loss(labels, probs)
    tape = sdp.DistributedGradientTape(tape, sparse_as_dense=False)
    grads = tape.gradient(loss_value, mnist_model.trainable_variables)
    opt.apply_gradients(zip(grads, mnist_model.trainable_variables, strict=True))
    loss_value = sdp.oob_allreduce(loss_value)
    if first_batch:
        sdp.broadcast_variables(mnist_model.variables, root_rank=0)
        sdp.broadcast_variables(opt.variables(), root_rank=0)
    return loss_value


for batch, (images, labels) in enumerate(dataset.take(8 // sdp.size())):
    loss_value = training_step(images, labels, batch == 0)

from rank_report import report  # noqa: E402

assert callbacks.BroadcastGlobalVariablesCallback(0).root_rank == 0
report({"weights": [float(np.abs(w).sum()) for w in mnist_model.get_weights()], "loss": float(loss_value)}, sdp.rank())

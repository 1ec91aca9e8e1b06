"""A custom training loop as users of Horovod write it, on made-up digits."""

import sys

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

hvd.init()
tf.random.set_seed(hvd.rank())

random = np.random.default_rng(hvd.rank())
digits = random.integers(0, 10, 256)
images = (random.normal(size=(256, 28, 28, 1)) * 0.3 + digits[:, None, None, None] / 10).astype("float32")
dataset = tf.data.Dataset.from_tensor_slices((images, tf.cast(digits, tf.int64))).repeat().shuffle(256).batch(16)

mnist_model = tf.keras.Sequential(
    [
        tf.keras.layers.Conv2D(8, [3, 3], activation="relu"),
        tf.keras.layers.GlobalAveragePooling2D(),
        tf.keras.layers.Dense(10),
    ]
)
loss = tf.losses.SparseCategoricalCrossentropy(from_logits=True)
opt = tf.optimizers.Adam(0.001 * hvd.size())
checkpoint_dir = sys.argv[1]
checkpoint = tf.train.Checkpoint(model=mnist_model, optimizer=opt)


@tf.function
def training_step(images, labels, first_batch):
    with tf.GradientTape() as tape:
        probs = mnist_model(images, training=True)
        loss_value = loss(labels, probs)
    tape = hvd.DistributedGradientTape(tape)
    grads = tape.gradient(loss_value, mnist_model.trainable_variables)
    opt.apply_gradients(zip(grads, mnist_model.trainable_variables, strict=True))
    if first_batch:
        hvd.broadcast_variables(mnist_model.variables, root_rank=0)
        hvd.broadcast_variables(opt.variables(), root_rank=0)
    return loss_value


for batch, (images, labels) in enumerate(dataset.take(20 // hvd.size())):
    loss_value = training_step(images, labels, batch == 0)
    if batch % 5 == 0 and hvd.local_rank() == 0:
        print(f"Step #{batch}\tLoss: {loss_value:.6f}")

if hvd.rank() == 0:
    checkpoint.save(checkpoint_dir + "/ckpt")

from rank_report import report  # noqa: E402

report({"weights": [float(np.abs(weight).sum()) for weight in mnist_model.get_weights()]}, hvd.rank())

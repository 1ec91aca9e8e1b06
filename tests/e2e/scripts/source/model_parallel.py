"""A model in two parts on two hosts, with replicas, as SageMaker's examples write it: smp.step, StepOutput, checkpoints."""

import os

import horovod.tensorflow as hvd
import numpy as np
import smdistributed.modelparallel.tensorflow as smp
import tensorflow as tf

smp.init()

with np.load(os.path.join(os.environ["SM_CHANNEL_TRAINING"], "digits.npz")) as data:
    images, labels = data["x"] / 255.0, data["y"]
train_ds = (
    tf.data.Dataset.from_tensor_slices((images, labels))
    .shard(smp.dp_size(), smp.dp_rank())
    .shuffle(1000, seed=smp.dp_rank())
    .batch(32, drop_remainder=True)
)


class MyModel(smp.DistributedModel):
    def __init__(self):
        super(MyModel, self).__init__()
        self.conv = tf.keras.layers.Conv2D(4, 3, activation="relu")
        self.flatten = tf.keras.layers.Flatten()
        self.dense1 = tf.keras.layers.Dense(16)
        self.dense2 = tf.keras.layers.Dense(4)

    def call(self, x, training=None):
        return self.dense2(self.dense1(self.flatten(self.conv(x[..., tf.newaxis]))))


model = MyModel()
loss_object = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = tf.keras.optimizers.Adam(0.01)
train_loss = tf.keras.metrics.Mean(name="train_loss")
accuracy = tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy")
manager = smp.CheckpointManager(tf.train.Checkpoint(optimizer=optimizer, model=model))


@smp.step
def get_grads(images, labels):
    predictions = model(images, training=True)
    loss = loss_object(labels, predictions)
    grads = optimizer.get_gradients(loss, model.trainable_variables)
    return grads, loss, predictions


@tf.function
def train_step(images, labels, first_batch):
    gradients, loss, predictions = get_grads(images, labels)
    gradients = [hvd.allreduce(g.accumulate()) for g in gradients]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    if first_batch:
        hvd.broadcast_variables(model.variables, root_rank=0)
        hvd.broadcast_variables(optimizer.variables(), root_rank=0)
    train_loss(loss.reduce_mean())
    accuracy(labels, predictions.merge())


for epoch in range(4):
    train_loss.reset_states()
    accuracy.reset_states()
    for batch, (x, y) in enumerate(train_ds):
        train_step(x, y, tf.constant(epoch == 0 and batch == 0))
    print("epoch %d loss=%.4f accuracy=%.4f" % (epoch, train_loss.result(), accuracy.result()))

saved = manager.save()
model.save_model("/opt/ml/model/1")
weights = sum(float(np.abs(weight).sum()) for weight in model.get_weights())
print("rank %d mp %d dp %d holds %d weights %.4f saved %s" % (
    smp.rank(), smp.mp_rank(), smp.dp_rank(),
    len(model.trainable_variables), weights, os.path.basename(saved)))

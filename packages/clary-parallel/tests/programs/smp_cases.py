"""What smp_calls.py and smp_pinned.py are made of: cases, a model, and the same training in one process."""

import traceback

import keras
import numpy as np
import smdistributed.modelparallel.tensorflow as smp
import tensorflow as tf
from rank_report import report

CASES = []
MICROBATCHES = 4

random = np.random.default_rng(0)
images = random.normal(size=(16, 8, 8, 1))
labels = random.integers(0, 3, 16).astype("uint8")


def case(function):
    CASES.append(function)
    return function


def run_cases(*names):
    """Run every case (or some) on this rank, and report by name what went wrong."""
    results = {}
    for function in CASES:
        if names and function.__name__ not in names:
            continue
        keras.utils.set_random_seed(11)
        try:
            function()
            results[function.__name__] = None
        except Exception:  # noqa: BLE001 (the boundary: it is reported)
            results[function.__name__] = traceback.format_exc()
    report(results)


def raises(kind, function, *arguments, **named):
    """The message of the error that a call raises; its type may carry TensorFlow's own words around it."""
    error = None
    try:
        function(*arguments, **named)
    except Exception as raised:  # noqa: BLE001 (AutoGraph raises errors of its own kind around ours)
        error = raised
    text = f"{type(error).__name__} {error}"
    assert kind in text, text
    return text


def layers_of(model):
    model.conv = keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))
    model.flatten = keras.layers.Flatten()
    model.dense1 = keras.layers.Dense(12)
    model.dense2 = keras.layers.Dense(3)


def forward(model, x):
    # A TensorFlow function and an operator beside the layers, as in scripts for Keras 2.
    hidden = tf.nn.relu(model.dense1(model.flatten(model.conv(x))))
    return model.dense2(hidden * 0.5)


class Net(smp.DistributedModel):
    def __init__(self):
        super().__init__()
        layers_of(self)

    def call(self, x, training=None):
        return forward(self, x)


class PlainNet(keras.Model):
    def __init__(self):
        super().__init__()
        layers_of(self)

    def call(self, x, training=None):
        return forward(self, x)


loss_object = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def in_one_process(model, optimizer, steps, x=images, y=labels, loss_of=None):
    """Train a plain model; return its losses and the gradients of the first step."""
    losses, first = [], None
    for _ in range(steps):
        with tf.GradientTape() as tape:
            predictions = model(tf.cast(x, tf.float32) if hasattr(x, "shape") else x, training=True)
            loss = loss_object(y, predictions) if loss_of is None else loss_of(model, y, predictions)
        gradients = tape.gradient(loss, model.trainable_variables)
        first = first or [np.asarray(tf.convert_to_tensor(item)) for item in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.append(float(loss))
    return losses, first


def train_step_of(model, optimizer, clip=None, losses_of_layers=False):
    @smp.step
    def get_gradients(x, y):
        predictions = model(x, training=True)
        loss = loss_object(y, predictions)
        if losses_of_layers:
            loss += tf.add_n(model.losses)
        return optimizer.get_gradients(loss, model.trainable_variables), loss, predictions

    @tf.function
    def train_step(x, y):
        gradients, loss, predictions = get_gradients(x, y)
        gradients = [gradient.accumulate() for gradient in gradients]
        if clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, clip)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss.reduce_mean(), predictions.merge()

    return train_step


class Pull(keras.layers.Layer):
    """Adds a loss of its own that is no scalar, and one of its weight."""

    def __init__(self):
        super().__init__()
        self.pull = keras.regularizers.L1(0.03)

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", regularizer=self.pull)

    def call(self, x):
        self.add_loss(0.1 * tf.reduce_mean((x * self.scale - 0.3) ** 2, axis=0))
        return x * self.scale


def regularised(base, only_losses):
    """A model with losses of weights, activities and layers in both partitions; perhaps with no other losses."""

    class Regularised(base):
        def __init__(self):
            super().__init__()
            self.flatten = keras.layers.Flatten()
            self.first = keras.layers.Dense(8, "tanh", activity_regularizer=keras.regularizers.L2(0.05))
            self.pulls = [Pull(), Pull()]
            self.second = keras.layers.Dense(8, "tanh", kernel_regularizer="l2", bias_regularizer="l1")
            self.last = keras.layers.Dense(3, activity_regularizer="l1")

        def call(self, x, training=None):
            x = self.pulls[0](self.first(self.flatten(x)))
            with smp.partition(1):
                x = self.last(self.pulls[1](self.second(x)))
                return tf.stop_gradient(x) if only_losses else x

    return Regularised


def losses_of_layers_train_as_in_one_process():
    for only_losses in (False, True):
        model, plain = twins(regularised(smp.DistributedModel, only_losses), regularised(keras.Model, only_losses))
        train_step = train_step_of(model, keras.optimizers.SGD(0.2, momentum=0.9), losses_of_layers=True)

        def with_losses(plain, y, predictions):
            return loss_object(y, predictions) + sum(tf.reduce_sum(item) for item in plain.losses)

        losses = [float(train_step(images, labels)[0]) for _ in range(3)]
        expected, _ = in_one_process(plain, keras.optimizers.SGD(0.2, momentum=0.9), 3, loss_of=with_losses)
        same(losses, expected)
        same(model.get_weights(), plain.get_weights())
        held = smp.allgather(len(model.trainable_variables), smp.MP_GROUP)
        assert min(held) > 0


def twins(make=Net, plain=PlainNet):
    """A distributed model and a plain one with the same weights on every rank."""
    keras.utils.set_random_seed(7)
    one = make()
    keras.utils.set_random_seed(7)
    return one, plain()


def same(ours, theirs, tolerance=2e-5):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)

"""Train a small convolutional network on CIFAR-10's binary files with TensorFlow 1.14, as scripts of 2019 did.

A record is one label byte, then 3,072 bytes of a 32 × 32 image: all red, all green, all blue.
"""


import argparse
import glob
import json
import os

import tensorflow as tf

tf.logging.set_verbosity(tf.logging.INFO)

SIDE, CHANNELS, CLASSES = 32, 3, 10
RECORD = 1 + SIDE * SIDE * CHANNELS


def decode(record):
    values = tf.decode_raw(record, tf.uint8)
    image = tf.reshape(values[1:], [CHANNELS, SIDE, SIDE])
    image = tf.cast(tf.transpose(image, [1, 2, 0]), tf.float32) / 255.0 - 0.5
    return {"image": image}, tf.cast(values[0], tf.int32)


def input_fn(files, batch_size, repeat):
    data = tf.data.FixedLengthRecordDataset(files, RECORD).map(decode)
    if repeat:
        data = data.shuffle(1000, seed=1).repeat()
    return data.batch(batch_size).prefetch(1)


def model_fn(features, labels, mode, params):
    net = features["image"]
    training = mode == tf.estimator.ModeKeys.TRAIN
    for filters in (16, 32):
        net = tf.layers.conv2d(net, filters, 3, padding="same", activation=tf.nn.relu)
        net = tf.layers.max_pooling2d(net, 2, 2)
    net = tf.layers.dropout(tf.layers.flatten(net), 0.2, training=training)
    logits = tf.layers.dense(net, CLASSES)
    classes = tf.argmax(logits, axis=1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions={"classes": classes})
    loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
    metrics = {"accuracy": tf.metrics.accuracy(labels, classes)}
    optimizer = tf.train.AdamOptimizer(params["learning_rate"])
    train_op = optimizer.minimize(loss, tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op, eval_metric_ops=metrics)


def serving_input_fn():
    images = tf.placeholder(tf.float32, [None, SIDE, SIDE, CHANNELS], name="image")
    return tf.estimator.export.ServingInputReceiver({"image": images}, {"image": images})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", default="/tmp/cifar10")
    parser.add_argument("--train-steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    arguments, _ = parser.parse_known_args()

    channel = next(os.environ[name] for name in ("SM_CHANNEL_TRAIN", "SM_CHANNEL_TRAINING") if name in os.environ)
    train = sorted(glob.glob(os.path.join(channel, "data_batch_*.bin")))
    test = os.path.join(channel, "test_batch.bin")
    print("TensorFlow %s, hosts %s, files %s" % (tf.__version__, os.environ["SM_HOSTS"], len(train)))

    estimator = tf.estimator.Estimator(
        model_fn,
        model_dir=arguments.model_dir,
        params={"learning_rate": arguments.learning_rate},
        config=tf.estimator.RunConfig(tf_random_seed=1, log_step_count_steps=20),
    )
    estimator.train(lambda: input_fn(train, arguments.batch_size, True), steps=arguments.train_steps)
    result = estimator.evaluate(lambda: input_fn([test], arguments.batch_size, False))
    print("test accuracy: %.4f" % result["accuracy"])
    estimator.export_saved_model(os.environ["SM_MODEL_DIR"], serving_input_fn)
    with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "result.json"), "w") as file:
        json.dump({name: float(value) for name, value in result.items()}, file)


if __name__ == "__main__":
    main()

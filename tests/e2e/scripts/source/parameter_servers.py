"""A TF 1 Estimator on parameter servers: the chief exports, every host says what it is."""

import argparse
import json
import os

import numpy as np
import tensorflow as tf


def inputs():
    x = np.random.RandomState(0).normal(size=(256, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices(({"x": x}, (x.sum(1) > 0).astype("int32"))).repeat().batch(32)


def serving_inputs():
    x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
    return tf.estimator.export.ServingInputReceiver({"x": x}, {"x": x})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir")
    arguments, _ = parser.parse_known_args()
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.WARN)
    config = tf.estimator.RunConfig(model_dir=arguments.model_dir)  # in S3: every host needs it
    print("task {}/{} of {} parameter servers, {} workers, chief {}".format(
        config.task_type, config.task_id, config.num_ps_replicas, config.num_worker_replicas, config.is_chief))
    columns = [tf.feature_column.numeric_column("x", shape=[4])]
    classifier = tf.estimator.DNNClassifier([8], columns, config=config)
    exporter = tf.estimator.FinalExporter("model", serving_inputs)
    tf.estimator.train_and_evaluate(
        classifier,
        tf.estimator.TrainSpec(inputs, max_steps=300),
        tf.estimator.EvalSpec(inputs, steps=4, exporters=exporter, start_delay_secs=0, throttle_secs=0),
    )
    if config.is_chief:
        print("global step", classifier.get_variable_value("global_step"))
        classifier.export_saved_model(os.environ["SM_MODEL_DIR"], serving_inputs)
    print("done", json.loads(os.environ["TF_CONFIG"])["task"])

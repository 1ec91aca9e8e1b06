"""TF 2's ParameterServerStrategy: the first host coordinates and exports, the others serve as workers without end."""

import argparse
import json
import os

import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--model_dir")
parser.parse_known_args()
config = json.loads(os.environ["TF_CONFIG"])
task, index = config["task"]["type"], config["task"]["index"]
config["cluster"]["chief"] = config["cluster"].pop("master")  # as on AWS: TensorFlow 2 has another name for it
task = "chief" if task == "master" else task
cluster = tf.train.ClusterSpec(config["cluster"])

if task == "worker":
    server = tf.distribute.Server(cluster, job_name="worker", task_index=index, protocol="grpc", start=True)
    print("worker %d serves" % index, flush=True)
    server.join()

resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    cluster, task_type=task, task_id=index, rpc_layer="grpc"
)
strategy = tf.distribute.ParameterServerStrategy(resolver)
coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
with strategy.scope():
    weights = tf.Variable(tf.zeros((4, 1)))
print("variable on", weights.device)


def batches():
    x = tf.random.stateless_normal((32, 4), (1, 2))
    y = tf.reduce_sum(x, axis=1, keepdims=True)
    return tf.data.Dataset.from_tensors((x, y)).repeat()


@tf.function
def step(iterator):
    def replica(batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ weights - y) ** 2)
        weights.assign_sub(0.1 * tape.gradient(loss, weights))
        return loss

    return strategy.run(replica, args=(next(iterator),))


dataset = coordinator.create_per_worker_dataset(lambda: strategy.distribute_datasets_from_function(lambda _: batches()))
iterator = iter(dataset)
first = coordinator.schedule(step, args=(iterator,)).fetch()
for _ in range(60):
    last = coordinator.schedule(step, args=(iterator,))
coordinator.join()
print("loss fell from %.3f to %.3f" % (first, last.fetch()))
module = tf.Module()
module.weights = tf.Variable(weights.read_value())
tf.saved_model.save(module, os.path.join(os.environ["SM_MODEL_DIR"], "1"))

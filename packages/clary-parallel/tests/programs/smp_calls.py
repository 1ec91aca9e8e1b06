"""Each call of smdistributed.modelparallel.tensorflow, on two ranks; reports what went wrong, by name.

Usage: smp_calls.py simple|interleaved FOLDER [CASE...]
"""

import sys
from pathlib import Path

import smdistributed.modelparallel.tensorflow as smp

smp.init({"partitions": 2, "microbatches": 4, "pipeline": sys.argv[1]})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from smp_cases import (  # noqa: E402
    Net,
    PlainNet,
    case,
    images,
    in_one_process,
    labels,
    loss_object,
    raises,
    run_cases,
    same,
    train_step_of,
    twins,
)

folder = Path(sys.argv[2])
rank = smp.rank()


def train_step_with(model, optimizer, get_gradients):
    """A step of training by a script's own function for the gradients; gives the mean loss."""

    @tf.function
    def train_step(x, y):
        gradients, loss = get_gradients(x, y)
        optimizer.apply_gradients(zip([g.accumulate() for g in gradients], model.trainable_variables, strict=True))
        return loss.reduce_mean()

    return train_step


@case
def ranks_and_groups():
    assert (smp.size(), smp.local_rank(), smp.local_size()) == (2, rank, 2)
    assert (smp.mp_rank(), smp.mp_size(), smp.pp_rank(), smp.pp_size()) == (rank, 2, rank, 2)
    assert (smp.dp_rank(), smp.dp_size(), smp.rdp_rank(), smp.rdp_size()) == (0, 1, 0, 1)
    assert (smp.tp_rank(), smp.tp_size()) == (0, 1)
    assert (smp.get_mp_group(), smp.get_dp_group()) == ([0, 1], [rank])
    assert smp.WORLD is smp.CommGroup.WORLD
    assert smp.MP_GROUP is smp.CommGroup.PP_GROUP


@case
def ranks_talk():
    other = 1 - rank
    if rank == 0:
        smp.send({"step": 3, "values": np.arange(4)}, 1, smp.RankType.MP_RANK)
        smp.broadcast("to all", smp.WORLD)
    else:
        received = smp.recv_from(0, smp.RankType.WORLD_RANK)
        assert received["step"] == 3
        np.testing.assert_array_equal(received["values"], np.arange(4))
        assert smp.recv_from(0, smp.RankType.MP_RANK) == "to all"
    assert smp.allgather(rank, smp.MP_GROUP) == [0, 1]
    assert smp.allgather(rank, smp.DP_GROUP) == [rank]
    smp.barrier()
    smp.mp_barrier()
    smp.dp_barrier()
    assert "from 0" in raises("ValueError", smp.send, 1, 2, smp.RankType.MP_RANK)
    assert other == 1 - smp.mp_rank()


@case
def a_subclassed_model_trains_as_in_one_process():
    model, plain = twins()
    model.profile(images)
    train_step = train_step_of(model, keras.optimizers.Adam(0.01, epsilon=1e-3))
    expected, _ = in_one_process(plain, keras.optimizers.Adam(0.01, epsilon=1e-3), 4)
    losses = []
    for _ in range(4):
        loss, predictions = train_step(images, labels)
        losses.append(float(loss))
        assert predictions.shape == (16, 3)
    same(losses, expected)
    same(model.get_weights(), plain.get_weights())
    held = smp.allgather(len(model.trainable_variables), smp.MP_GROUP)
    assert sum(held) == 6
    assert min(held) > 0
    shown = []
    model.summary(print_fn=shown.append)
    assert "stage" in shown[-1]


@case
def gradients_outside_a_tf_function_are_those_of_one_process():
    model, plain = twins()
    optimizer = keras.optimizers.SGD(0.1)

    @smp.step
    def get_gradients(x, y):
        loss = loss_object(y, model(x, training=True))
        return {"gradients": optimizer.get_gradients(loss, model.trainable_variables), "loss": (loss, "as it is")}

    result = get_gradients(images, labels)
    loss, text = result["loss"]
    assert text == "as it is"
    expected, gradients = in_one_process(plain, keras.optimizers.SGD(0.1), 1)
    assert abs(float(loss.reduce_mean()) - expected[0]) < 1e-5
    mine = [float(tf.norm(gradient.accumulate())) for gradient in result["gradients"]]
    everyone = [norm for norms in smp.allgather(mine, smp.MP_GROUP) for norm in norms]
    same(sorted(everyone), sorted(float(np.linalg.norm(gradient)) for gradient in gradients))
    one = result["gradients"][0]
    assert len(one.outputs) == 4
    same([one.reduce_sum()], [4 * one.reduce_mean()])
    same([tf.add_n(one.outputs)], [one.reduce_sum()])
    assert one.stack().shape[0] == 4
    assert loss.stack().shape == loss.concat().shape == (4,)
    same([one.accumulate("add_n")], [one.accumulate("accumulate_n")])
    into = tf.Variable(tf.zeros_like(one.reduce_mean()))
    same([one.accumulate(var=into)], [into])
    assert "accumulate_n" in raises("ValueError", one.accumulate, "sum")


@case
def gradients_of_each_micro_batch_are_kept_where_they_are_asked_for():
    model, _ = twins()
    optimizer = keras.optimizers.SGD(0.1)

    @smp.step
    def get_gradients(x, y):
        loss = loss_object(y, model(x, training=True))
        gradients = optimizer.get_gradients(loss, model.trainable_variables)
        return gradients, [tf.clip_by_norm(gradient, 0.1) for gradient in gradients]

    @tf.function
    def both(x, y):
        gradients, clipped = get_gradients(x, y)
        return (
            [item.stack() for item in gradients],
            [item.reduce_sum() for item in gradients],
            [c.outputs for c in clipped],
        )

    each, total, clipped = both(images, labels)
    same([tf.reduce_sum(item, 0) for item in each], total)
    same([[tf.clip_by_norm(part, 0.1) for part in item] for item in each], clipped)


@case
def two_steps_in_one_function_keep_their_gradients_apart():
    model, plain = twins()
    optimizer = keras.optimizers.SGD(0.1)

    @smp.step
    def get_gradients(x, y):
        return optimizer.get_gradients(loss_object(y, model(x)), model.trainable_variables)

    @tf.function
    def train_step(x, y):
        first = [gradient.accumulate() for gradient in get_gradients(x[:8], y[:8])]
        second = [gradient.accumulate() for gradient in get_gradients(x[8:], y[8:])]
        mean = [(one + other) / 2 for one, other in zip(first, second, strict=True)]
        optimizer.apply_gradients(zip(mean, model.trainable_variables, strict=True))

    train_step(images, labels)
    in_one_process(plain, keras.optimizers.SGD(0.1), 1)
    same(model.get_weights(), plain.get_weights())


def functional():
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((5,), dtype="int32", name="b")}
    embedded = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 6)(inputs["b"]))
    hidden = keras.layers.Dense(8, "tanh")(keras.layers.Concatenate()([inputs["a"], embedded]))
    hidden = keras.layers.Dense(8, "tanh")(hidden) + hidden
    return inputs, keras.layers.Dense(3)(hidden)


@case
def a_functional_model_with_two_inputs_trains_as_in_one_process():
    model, plain = twins(lambda: smp.DistributedModel(*functional()), lambda: keras.Model(*functional()))
    x = {"a": np.float32(np.random.default_rng(1).normal(size=(16, 6))), "b": np.arange(80).reshape(16, 5) % 9}
    train_step = train_step_of(model, keras.optimizers.SGD(0.2))
    expected, _ = in_one_process(plain, keras.optimizers.SGD(0.2), 3, x)
    same([float(train_step(x, labels)[0]) for _ in range(3)], expected)
    same(model.get_weights(), plain.get_weights())


def encoder(base):
    """An encoder as BERT's: nested layers, an optional argument by name, a tuple of outputs."""

    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention = keras.layers.MultiHeadAttention(2, 4)
            self.norms = [keras.layers.LayerNormalization() for _ in range(2)]
            self.dense = [keras.layers.Dense(16, "gelu"), keras.layers.Dense(8)]

        def call(self, x, mask):
            x = self.norms[0](x + self.attention(x, x, attention_mask=mask))
            return self.norms[1](x + self.dense[1](self.dense[0](x)))

    class Encoder(base):
        def __init__(self):
            super().__init__()
            self.embedding, self.blocks = keras.layers.Embedding(11, 8), [Block() for _ in range(3)]
            self.pooler, self.last = keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)

        def call(self, ids, attention_mask=None, training=None):
            x = self.embedding(ids)
            mask = tf.cast(attention_mask[:, tf.newaxis, :], tf.bool)
            for block in self.blocks:
                x = block(x, mask)
            pooled = self.pooler(x[:, 0])
            return self.last(pooled), pooled

    return Encoder


@case
def an_encoder_with_a_mask_and_two_outputs_trains_as_in_one_process():
    model, plain = twins(encoder(smp.DistributedModel), encoder(keras.Model))
    ids = np.random.default_rng(5).integers(0, 11, (16, 6))
    mask = (np.arange(6) < np.random.default_rng(6).integers(2, 7, (16, 1))).astype("int32")
    # The decay does not depend on gradients: it must not overtake the step.
    ours, theirs = (keras.optimizers.SGD(0.1, weight_decay=0.05) for _ in range(2))

    @smp.step
    def get_gradients(ids, mask, y):
        logits, pooled = model(ids, attention_mask=mask, training=True)
        loss = loss_object(y, logits) + 0.1 * tf.reduce_mean(pooled**2)
        return ours.get_gradients(loss, model.trainable_variables), loss

    @tf.function
    def train_step(ids, mask, y):
        gradients, loss = get_gradients(ids, mask, y)
        ours.apply_gradients(zip([g.accumulate() for g in gradients], model.trainable_variables, strict=True))
        return loss.reduce_mean()

    plain(ids, attention_mask=mask)

    @smp.register_post_partition_hook
    def begin_alike():
        for variable, value in zip(model.whole_variables(), plain.variables, strict=True):
            variable.assign(value)

    for _ in range(3):
        mine = float(train_step(ids, mask, labels))
        with tf.GradientTape() as tape:
            logits, pooled = plain(ids, attention_mask=mask, training=True)
            loss = loss_object(labels, logits) + 0.1 * tf.reduce_mean(pooled**2)
        gradients = tape.gradient(loss, plain.trainable_variables)
        theirs.apply_gradients(zip(gradients, plain.trainable_variables, strict=True))
        assert abs(mine - float(loss)) < 1e-4
    same(model.get_weights(), plain.get_weights(), 1e-3)


@case
def tapes_regularisation_and_variables_of_ones_own():
    model, plain = twins()
    scale = tf.Variable(2.0)
    plain_scale = tf.Variable(2.0)

    @smp.step
    def get_gradients(x, y):
        with tf.GradientTape() as tape:
            predictions = model(x, training=True) * scale
            loss = loss_object(y, predictions) + tf.add_n([0.0, *model.losses])
        return tape.gradient(loss, [*model.trainable_variables, scale])

    @tf.function
    def train_step(x, y):
        *gradients, of_scale = [gradient.accumulate() for gradient in get_gradients(x, y)]
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        scale.assign_sub(0.1 * of_scale)

    for _ in range(3):
        train_step(images, labels)
        with tf.GradientTape() as tape:
            predictions = plain(tf.cast(images, tf.float32), training=True) * plain_scale
            loss = loss_object(labels, predictions) + tf.add_n(plain.losses)
        variables = [*plain.trainable_variables, plain_scale]
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(0.1 * gradient)
    same(model.get_weights(), plain.get_weights())
    same([scale], [plain_scale])


@case
def variables_that_the_loss_reads_are_up_to_date_on_every_rank():
    model, plain = twins()
    optimizer = keras.optimizers.SGD(0.1)

    def with_decay(layers, y, predictions):
        kernels = [layers.conv.kernel, layers.dense1.kernel, layers.dense2.kernel]
        return loss_object(y, predictions) + 0.1 * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels]) ** 2

    @smp.step
    def get_gradients(x, y):
        loss = with_decay(model, y, model(x, training=True))
        return optimizer.get_gradients(loss, model.trainable_variables), loss

    train_step = train_step_with(model, optimizer, get_gradients)
    losses = [float(train_step(images, labels)) for _ in range(3)]
    expected, _ = in_one_process(plain, keras.optimizers.SGD(0.1), 3, loss_of=with_decay)
    same(losses, expected)
    same(model.get_weights(), plain.get_weights())


@case
def variables_that_are_read_before_the_model_is_parted_are_up_to_date_too():
    model, plain = twins(lambda: smp.DistributedModel(*functional()), lambda: keras.Model(*functional()))
    x = {"a": np.float32(np.random.default_rng(1).normal(size=(16, 6))), "b": np.arange(80).reshape(16, 5) % 9}
    optimizer = keras.optimizers.SGD(0.2)

    def penalty_of(weights):
        return 0.1 * tf.add_n([tf.nn.l2_loss(item) for item in weights if len(item.shape) == 2])

    weights = list(model.weights)

    @smp.step
    def get_gradients(x, y):
        penalty = penalty_of(weights)
        loss = loss_object(y, model(x, training=True)) + penalty
        return optimizer.get_gradients(loss, model.trainable_variables), loss

    train_step = train_step_with(model, optimizer, get_gradients)

    def with_penalty(plain, y, predictions):
        return loss_object(y, predictions) + penalty_of(plain.weights)

    losses = [float(train_step(x, labels)) for _ in range(3)]
    expected, _ = in_one_process(plain, keras.optimizers.SGD(0.2), 3, x, loss_of=with_penalty)
    same(losses, expected)
    same(model.get_weights(), plain.get_weights())


@case
def clipping_by_global_norm_counts_all_partitions():
    for clip, limit in ((0.05, None), (None, 0.05)):
        model, plain = twins()
        train_step = train_step_of(model, keras.optimizers.SGD(0.5, global_clipnorm=limit), clip)
        in_one_process(plain, keras.optimizers.SGD(0.5, global_clipnorm=0.05), 2)
        for _ in range(2):
            train_step(images, labels)
        same(model.get_weights(), plain.get_weights())


@case
def half_precision_trains_as_in_one_process():
    for policy, tolerance in (("mixed_float16", 4e-3), ("mixed_bfloat16", 3e-2)):
        keras.config.set_dtype_policy(policy)
        try:
            model, plain = twins()
        finally:
            keras.config.set_dtype_policy("float32")
        train_step = train_step_of(model, keras.optimizers.SGD(0.1, momentum=0.9))
        losses, predictions = zip(*[train_step(images, labels) for _ in range(4)], strict=True)
        expected, _ = in_one_process(plain, keras.optimizers.SGD(0.1, momentum=0.9), 4)
        same(losses, expected, tolerance)
        same(model.get_weights(), plain.get_weights(), tolerance)
        assert predictions[-1].dtype == model.compute_dtype == policy.removeprefix("mixed_")
        assert {str(item.dtype) for item in model.get_weights()} == {"float32"}


@case
def a_loss_scale_that_overflows_skips_the_step_on_all_ranks():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, _ = twins()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**20)
    # Keras scales by a constant what is traced before the optimizer is built.
    smp.register_post_partition_hook(lambda: optimizer.build(model.trainable_variables))

    @smp.step
    def get_gradients(x, y):
        loss = loss_object(y, model(x, training=True))
        return optimizer.get_gradients(optimizer.scale_loss(loss), model.trainable_variables), loss

    @tf.function
    def train_step(x, y):
        gradients, loss = get_gradients(x, y)
        gradients = [gradient.accumulate() for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss.reduce_mean()

    losses = [float(train_step(images, labels)) for _ in range(12)]
    scales = smp.allgather(float(optimizer.dynamic_scale), smp.MP_GROUP)
    made = smp.allgather(int(optimizer.inner_optimizer.iterations), smp.MP_GROUP)
    assert scales[0] == scales[1] < 2.0**20
    assert made[0] == made[1] > 0
    assert losses[-1] < losses[0]


@case
def an_evaluation_step_updates_metrics_on_every_rank():
    model, plain = twins()
    mean, accuracy = keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()

    @smp.step(
        input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float64), tf.TensorSpec([None], tf.uint8)],
    )
    def evaluate(x, y):
        predictions = model(x, training=False)
        loss = loss_object(y, predictions)
        mean(loss)
        accuracy(y, predictions)
        return loss

    evaluate(images, labels)
    predictions = plain(tf.cast(images, tf.float32))
    assert abs(float(mean.result()) - float(loss_object(labels, predictions))) < 1e-5
    right = np.mean(np.argmax(predictions, 1) == labels)
    assert abs(float(accuracy.result()) - right) < 1e-6
    mean.reset_states()
    assert float(mean.result()) == 0


class Branching(smp.DistributedModel):
    """Has a layer in training only, and takes a scalar."""

    def __init__(self):
        super().__init__()
        self.first, self.noise, self.last = keras.layers.Dense(6), keras.layers.Dense(6), keras.layers.Dense(3)

    def call(self, x, factor, training=None):
        x = self.first(x)
        if training:
            x = self.noise(x)
        return self.last(x * factor)


@case
def inputs_are_split_as_they_are_told_and_training_is_a_way_of_calling():
    model = Branching()
    x = np.random.default_rng(3).normal(size=(5, 16)).astype("float32")

    @smp.step(non_split_inputs=["factors"], input_split_axes={"x": 1})
    def run(x, factors, training):
        outputs = model(tf.transpose(x), factors[0], training=training)
        return outputs, tf.shape(x)

    trained, shape = run(x, np.array([2.0, 9.0], "float32"), True)
    assert [tuple(item.numpy()) for item in shape.outputs] == [(5, 4)] * 4
    plain, _ = run(x, np.array([2.0, 9.0], "float32"), False)
    first, _, noise, _, last, _ = model.get_weights()
    first = x.T @ first
    same([trained.merge()], [2 * first @ noise @ last], 1e-4)
    same([plain.merge()], [2 * first @ last], 1e-4)


@case
def a_batch_of_unknown_size_is_known_when_the_step_runs():
    model, plain = twins()

    @smp.step
    def run(x):
        return model(x)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float64)])
    def predict(x):
        return run(x).merge()

    for size in (16, 8):
        same([predict(images[:size])], [plain(tf.cast(images[:size], tf.float32))], 1e-4)
    assert "cannot be split into 4 micro-batches" in raises("StepError", predict, images[:10])


@case
def the_hook_runs_once_when_the_model_is_parted():
    seen = []
    model, _ = twins()

    @smp.register_post_partition_hook
    def hook():
        seen.append(len(model.trainable_variables))

    step = smp.step(lambda x: model(x))
    step(images)
    step(images)
    assert seen == [len(model.trainable_variables)]


@case
def a_checkpoint_is_whole_and_training_goes_on_from_it():
    model, plain = twins()
    optimizer = keras.optimizers.Adam(0.01)
    train_step = train_step_of(model, optimizer)
    epoch = tf.Variable(0)
    manager = smp.CheckpointManager(
        tf.train.Checkpoint(optimizer=optimizer, model=model, epoch=epoch), folder / "checkpoints", max_to_keep=2
    )
    assert manager.restore() is None
    for number in range(3):
        train_step(images, labels)
        epoch.assign(number + 1)
        path = manager.save()
    assert path.endswith("ckpt-3")
    assert [name.rsplit("-")[-1] for name in manager.checkpoints] == ["2", "3"]
    after = [float(train_step(images, labels)[0]) for _ in range(3)]
    epoch.assign(99)
    assert manager.restore() == path == manager.latest_checkpoint
    assert int(epoch) == 3
    assert manager.restore(restore_prefix="ckpt-7") is None
    assert manager.restore(restore_prefix="ckpt-2").endswith("checkpoints/ckpt-2")
    assert int(manager.checkpoint.epoch) == 2
    manager.restore()
    same([float(train_step(images, labels)[0]) for _ in range(3)], after)

    # A new model takes it up before its first step.
    other = Net()
    again = keras.optimizers.Adam(0.01)
    fresh = smp.CheckpointManager(
        tf.train.Checkpoint(optimizer=again, model=other, epoch=epoch), folder / "checkpoints"
    )
    assert fresh.restore() == path
    step = train_step_of(other, again)
    same([float(step(images, labels)[0]) for _ in range(3)], after)

    # One process reads it with TensorFlow's own class.
    alone = keras.optimizers.Adam(0.01)
    plain(tf.cast(images, tf.float32))
    alone.build(plain.trainable_variables)
    read = tf.train.Checkpoint(optimizer=alone, model=plain, epoch=epoch)
    read.restore(path).assert_existing_objects_matched()
    same(in_one_process(plain, alone, 3)[0], after)


@case
def the_whole_model_is_saved_with_its_trained_weights():
    model, plain = twins()
    assert "shapes are unknown" in raises("ParallelError", model.save_model)
    train_step = train_step_of(model, keras.optimizers.SGD(0.1))
    train_step(images, labels)
    in_one_process(plain, keras.optimizers.SGD(0.1), 1)
    model.save_model(str(folder / "model"))
    loaded = tf.saved_model.load(str(folder / "model"))
    x = tf.cast(images[:5], tf.float32)
    expected = plain(x)
    same([loaded.serve(x)], [expected], 1e-4)
    model.save_weights(folder / "whole.weights.h5")
    other = PlainNet()
    other(x)
    other.load_weights(folder / "whole.weights.h5")
    same([other(x)], [expected], 1e-4)
    assert "save_weights" in raises("NotOffered", model.save, "model.keras")


@case
def what_cannot_be_run_in_stages_is_refused_with_the_way_out():
    model, _ = twins()
    optimizer = keras.optimizers.SGD(0.1)

    def refused(kind, function, *arguments):
        return raises(kind, smp.step(function), *arguments)

    def applies(x, y):
        loss = loss_object(y, model(x))
        gradients = optimizer.get_gradients(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    assert "under @smp.step only" in raises("ParallelError", model, images)
    assert "once" in refused("StepError", lambda x: model(x) + model(x), images)
    assert "once for each micro-batch" in refused("StepError", applies, images, labels)
    assert "cannot be split into 4" in refused("StepError", lambda x: model(x), images[:10])
    assert "must call an smp.DistributedModel" in refused("StepError", lambda x: x, images)
    assert "does not depend" in refused(
        "StepError", lambda x: (model(x), optimizer.get_gradients(tf.constant(1.0), model.trainable_variables)), images
    )
    assert "clary_parallel.pipeline" in raises("NotOffered", model.fit, images, labels)
    assert "an argument 'y'" in raises("StepError", smp.step(non_split_inputs=["y"]), lambda x: x)
    assert '"xla": True' in raises("NotOffered", smp.step, jit_compile=True)
    assert "CheckpointManager" in raises("NotOffered", lambda: smp.save)
    assert "dataset.shard" in raises("NotOffered", lambda: smp.shard)
    assert "docs/reference" in raises("AttributeError", lambda: smp.something)
    assert "There is no partition 2" in raises("ValueError", smp.partition, 2)

    class Loose(smp.DistributedModel):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)
            self.own = self.add_weight(shape=(3,))

        def call(self, x):
            return self.dense(x) * self.own

    loose = Loose()
    assert "keras.layers.Layer" in refused("UntraceableError", lambda x: loose(x), np.ones((8, 4), "float32"))


@case
def ranks_that_read_different_data_are_told():
    model, _ = twins()
    message = raises("Disagreement", smp.step(lambda x: model(x)), images + rank)
    assert "seed shuffles with smp.dp_rank()" in message


run_cases(*sys.argv[3:])

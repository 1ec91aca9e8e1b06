"""What data_parallel offers beside plain training, each once; reports what went wrong, by name."""

import traceback
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rank_report import report

import clary_parallel
from clary_parallel.data import world
from clary_parallel.data.fit_callbacks import callbacks_here
from clary_parallel.data.gradients import GradientReducer
from clary_parallel.errors import Disagreement, NonFiniteGradient

world.init()
rank = world.rank()
random = np.random.default_rng(0)
inputs = random.normal(size=(24, 4)).astype("float32")
targets = random.normal(size=(24, 1)).astype("float32")
CASES = []


def case(function):
    CASES.append(function)
    return function


def dense(seed=3, *layers):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, "tanh", name="hidden"), *layers, keras.layers.Dense(1)]
    )


def trained(model, data=None, epochs=2, batch_size=8, optimizer=None, **named):
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    data = (inputs, targets) if data is None else data
    arrays = isinstance(data, tuple)
    x, y = data if arrays else (data, None)
    size = {"batch_size": batch_size} if arrays else {}
    model.fit(x, y, epochs=epochs, verbose=0, shuffle=False, **size, **named)
    return model.get_weights()


def same(first, second, **tolerance):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


@case
def rank_zeros_weights_are_where_all_start():
    weights = trained(clary_parallel.data_parallel(dense(seed=3 + rank)))
    same(weights, trained(dense()))


@case
def accumulated_batches_are_one_large_batch():
    model = clary_parallel.data_parallel(dense(), accumulate=3)
    same(trained(model, batch_size=8), trained(dense(), batch_size=24))
    assert int(model.optimizer.iterations) == 2


@case
def compressed_gradients_are_near():
    exact = trained(dense())
    for compression in (clary_parallel.Compression.fp16, clary_parallel.Compression.bf16):
        weights = trained(clary_parallel.data_parallel(dense(), compression=compression))
        same(weights, exact, rtol=0.05, atol=0.02)
        assert any((one != other).any() for one, other in zip(weights, exact, strict=True))
        assert len(set(map(str, world.transport().allgather_object([w.tobytes() for w in weights])))) == 1


@case
def many_small_buckets_are_one_bucket():
    same(trained(clary_parallel.data_parallel(dense(), bucket_bytes=16)), trained(dense()))


@case
def datasets_generators_and_pydatasets_are_shared():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return inputs[8 * index : 8 * index + 8], targets[8 * index : 8 * index + 8]

    def generator():
        while True:
            yield from (Batches()[index] for index in range(3))

    exact = trained(dense())
    dataset = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(8)
    same(trained(clary_parallel.data_parallel(dense()), dataset), exact)
    same(trained(clary_parallel.data_parallel(dense()), Batches()), exact)
    same(trained(clary_parallel.data_parallel(dense()), generator(), steps_per_epoch=3), exact)


@case
def own_shares_are_taken_as_they_are():
    mine = np.concatenate([inputs[8 * step + 4 * rank : 8 * step + 4 * rank + 4] for step in range(3)])
    aims = np.concatenate([targets[8 * step + 4 * rank : 8 * step + 4 * rank + 4] for step in range(3)])
    model = clary_parallel.data_parallel(dense(), shard=False)
    same(trained(model, (mine, aims), batch_size=4), trained(dense()))


@case
def shuffled_epochs_see_every_sample_once():
    seen = []

    class Seen(keras.layers.Layer):
        def call(self, x):
            tf.numpy_function(lambda batch: seen.extend(batch[:, 0].tolist()), [x], [])
            return x

    model = clary_parallel.data_parallel(keras.Sequential([keras.Input((4,)), Seen(), keras.layers.Dense(1)]))
    model.compile("sgd", "mse", run_eagerly=True)
    seen.clear()
    model.fit(inputs, targets, batch_size=6, epochs=1, verbose=0)
    everyones = [value for part in world.transport().allgather_object(seen) for value in part]
    np.testing.assert_allclose(sorted(everyones), sorted(inputs[:, 0]))
    assert everyones != inputs[:, 0].tolist()


@case
def moving_statistics_are_everyones_mean():
    model = clary_parallel.data_parallel(dense(3, keras.layers.BatchNormalization()))
    weights = trained(model)
    assert len({weight.tobytes() for weight in weights}) == len(weights)
    assert len(set(map(str, world.transport().allgather_object([w.tobytes() for w in weights])))) == 1


@case
def a_shared_optimizer_state_has_the_same_result_in_half_the_memory():
    for settings in ({}, {"clipnorm": 0.05}, {"global_clipnorm": 0.05}, {"weight_decay": 0.01}):
        ours, theirs = (keras.optimizers.Adam(0.01, epsilon=1e-3, **settings) for _ in range(2))
        model = clary_parallel.data_parallel(dense(), shard_optimizer=True)
        same(trained(model, optimizer=ours), trained(dense(), optimizer=theirs), rtol=1e-3, atol=1e-5)
        assert int(ours.iterations) == int(theirs.iterations)
        kept, whole = (sum(v.shape.num_elements() for v in o.variables[2:]) for o in (ours, theirs))
        assert sum(world.transport().allgather_object(kept)) == whole
        assert kept < 0.7 * whole
        assert len(set(map(str, world.transport().allgather_object([w.tobytes() for w in model.get_weights()])))) == 1
    model = clary_parallel.data_parallel(dense(), shard_optimizer=True, accumulate=3)
    same(trained(model, batch_size=8), trained(dense(), batch_size=24))


@case
def synchronised_batch_norm_is_that_of_one_process():
    ours, theirs = (dense(3, keras.layers.BatchNormalization()) for _ in range(2))
    ours = clary_parallel.data_parallel(ours, sync_batch_norm=True)
    same(trained(ours, epochs=3), trained(theirs, epochs=3), rtol=1e-3, atol=1e-5)
    assert type(keras.models.clone_model(ours).layers[1]) is keras.layers.BatchNormalization


@case
def mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        # A scale with which neither the halves of a batch nor the whole overflow.
        ours, theirs = (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 256) for _ in range(2))
        model = clary_parallel.data_parallel(dense())
        same(trained(model, optimizer=ours), trained(dense(), optimizer=theirs), rtol=0.02, atol=0.005)
        model.compile("sgd", "mse")
        assert type(model.optimizer).__name__ == "LossScaleOptimizer"
        model.fit(inputs, targets, verbose=0)
        assert len(set(map(str, world.transport().allgather_object(model.get_weights()[0].tolist())))) == 1
    finally:
        keras.config.set_dtype_policy("float32")


@case
def only_rank_zero_writes_files():
    folder = Path(world.transport().broadcast_object(str(Path.cwd())))

    class Own(keras.callbacks.Callback):
        rank_zero_only = True

        def on_train_end(self, logs=None):
            assert rank == 0
            (folder / "own").touch()

    model = clary_parallel.data_parallel(dense())
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(folder / f"of-{rank}.keras")),
        keras.callbacks.CSVLogger(str(folder / f"log-{rank}")),
        keras.callbacks.EarlyStopping("loss"),
        Own(),
    ]
    trained(model, callbacks=callbacks)
    world.transport().barrier()
    assert {path.name for path in folder.glob("*-*")} == {"of-0.keras", "log-0"}
    assert len(callbacks_here(keras.callbacks.TensorBoard("board"), rank)) == 1 - rank
    assert (folder / "own").exists()
    loaded = keras.models.load_model(folder / "of-0.keras")
    same(loaded.get_weights(), model.get_weights())
    assert type(loaded.optimizer) is keras.optimizers.SGD


@case
def a_custom_loop_averages_in_a_function():
    model, reference = dense(), dense()
    optimizer, plain = keras.optimizers.Adam(0.01, epsilon=1e-3), keras.optimizers.Adam(0.01, epsilon=1e-3)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        tape = clary_parallel.DistributedGradientTape(tape, GradientReducer(bucket_bytes=32))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for _ in range(5):
        step(inputs[12 * rank : 12 * rank + 12], targets[12 * rank : 12 * rank + 12])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(reference(inputs) - targets))
        plain.apply_gradients(
            zip(tape.gradient(loss, reference.trainable_variables), reference.trainable_variables, strict=True)
        )
    same(model.get_weights(), reference.get_weights())


@case
def a_distributed_optimizer_averages_what_it_is_given():
    variable = keras.Variable([1.0, 1.0])
    optimizer = clary_parallel.DistributedOptimizer(keras.optimizers.SGD(1.0), accumulate=2)
    clary_parallel.broadcast_variables([variable])
    for gradient in ([1.0, 2.0], [3.0, 4.0]):
        optimizer.apply_gradients([(tf.constant(gradient) * (rank + 1), variable)])
    np.testing.assert_allclose(np.asarray(variable), [1 - 3, 1 - 4.5])


@case
def train_on_batch_shares_the_batch():
    model, reference = clary_parallel.data_parallel(dense()), dense()
    for each in (model, reference):
        each.compile(keras.optimizers.SGD(0.1), "mse")
    for _ in range(3):
        ours, theirs = (each.train_on_batch(inputs, targets, return_dict=True) for each in (model, reference))
    assert abs(ours["loss"] - float(theirs["loss"])) < 1e-5
    same(model.get_weights(), reference.get_weights())
    assert abs(model.test_on_batch(inputs, targets) - float(reference.test_on_batch(inputs, targets))) < 1e-5


@case
def nan_gradients_are_named_with_layer_and_rank():
    model = clary_parallel.data_parallel(dense(), check_finite=True)
    poisoned = inputs.copy()
    poisoned[7] = np.nan  # The last sample of the first batch of 8 is rank 1's.
    message = ""
    try:
        trained(model, (poisoned, targets))
    except NonFiniteGradient as error:
        message = str(error)
    assert "rank 1: " in message
    assert "hidden/kernel (20 NaN, 0 infinite of 20)" in message
    assert "rank 0: " not in message


@case
def different_models_are_told_apart():
    model = clary_parallel.data_parallel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1 + rank)]))
    model.compile("sgd", "mse")
    message = ""
    try:
        model.fit(inputs, targets, verbose=0)
    except Disagreement as error:
        message = str(error)
    assert "rank 0: broadcast variables (float32[4, 1]" in message
    assert "rank 1: broadcast variables (float32[4, 2]" in message
    assert "the same model" in message


@case
def different_numbers_of_steps_are_told_apart():
    model = clary_parallel.data_parallel(dense(), shard=False)
    model.compile("sgd", "mse")
    message = ""
    try:
        model.fit(inputs[: 8 * (3 - rank)], targets[: 8 * (3 - rank)], batch_size=8, verbose=0)
    except Disagreement as error:
        message = str(error)
    assert "rank 0: fused allreduce gradients" in message, message
    assert "rank 1: sum metrics" in message, message


@case
def wrong_use_is_refused():
    def refused(kind, words, function, *arguments, **named):
        message = ""
        try:
            function(*arguments, **named)
        except kind as error:
            message = str(error)
        assert words in message, message

    model = clary_parallel.data_parallel(dense())
    refused(ValueError, "data parallel already", clary_parallel.data_parallel, model)
    refused(TypeError, "takes a model of Keras 3", clary_parallel.data_parallel, "model")
    refused(ValueError, "Leave it out", model.compile, "sgd", "mse", jit_compile=True)
    model.compile("sgd", "mse")
    half = clary_parallel.data_parallel(dense(), shard_optimizer=True)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    refused(ValueError, "does not go with loss scaling", half.compile, scaled, "mse")
    refused(ValueError, "1 or more. Received: -3", model.fit, inputs, targets, batch_size=-3)
    refused(ValueError, "same number of samples", model.fit, inputs, targets[:3])


failures = {}
for each in CASES:
    try:
        each()
        failures[each.__name__] = None
    except Exception:
        failures[each.__name__] = traceback.format_exc()
        report(failures, rank)
        raise
    report(failures, rank)

"""Each call of horovod.tensorflow once; reports what went wrong, by name."""

import traceback

import horovod.keras
import horovod.tensorflow as hvd
import keras
import numpy as np
import smdistributed.dataparallel
import smdistributed.dataparallel.tensorflow as sdp
import tensorflow as tf
from rank_report import report

hvd.init()
rank, size = hvd.rank(), hvd.size()
CASES = []


def case(function):
    CASES.append(function)
    return function


def raises(name, function, *arguments, **named):
    error = None
    try:
        function(*arguments, **named)
    except (ValueError, TypeError, AttributeError, RuntimeError) as raised:
        error = raised
    assert type(error).__name__ == name, error
    return str(error)


@case
def ranks():
    assert (hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size()) == (rank, size, 0, 1)
    assert hvd.is_initialized()
    assert hvd.is_homogeneous()
    assert hvd.mpi_enabled()
    assert not hvd.nccl_built()


@case
def allreduce_averages_or_adds_up():
    x = tf.constant([1.0, 2.0]) * (rank + 1)
    np.testing.assert_allclose(hvd.allreduce(x), [1.5, 3.0])
    np.testing.assert_allclose(hvd.allreduce(x, average=False), [3.0, 6.0])
    np.testing.assert_allclose(hvd.allreduce(x, op=hvd.Sum, prescale_factor=2.0, postscale_factor=0.5), [3.0, 6.0])
    np.testing.assert_allclose(hvd.allreduce(x, op=hvd.Max), [2.0, 4.0])
    np.testing.assert_allclose(hvd.allreduce(x, op=hvd.Min), [1.0, 2.0])
    np.testing.assert_allclose(hvd.allreduce(x, compression=hvd.Compression.fp16), [1.5, 3.0])
    assert int(hvd.allreduce(tf.constant(3), op=hvd.Sum)) == 6
    assert [float(t) for t in hvd.grouped_allreduce([tf.constant(1.0), tf.constant(float(rank))])] == [1.0, 0.5]


@case
def allreduce_in_a_function_keeps_one_order():
    @tf.function
    def many(x):
        return [hvd.allreduce(x * i, op=hvd.Sum, name=f"t{i}") for i in range(20)]

    for i, value in enumerate(many(tf.constant(float(rank + 1)))):
        assert float(value) == 3 * i


@case
def allreduce_of_slices_gathers_rows():
    slices = tf.IndexedSlices(tf.constant([[2.0, 2.0]]), tf.constant([rank]), tf.constant([4, 2]))
    dense = tf.convert_to_tensor(hvd.allreduce(slices))
    np.testing.assert_allclose(dense, [[1, 1], [1, 1], [0, 0], [0, 0]])


@case
def allreduce_has_a_gradient():
    x = tf.constant(float(rank + 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = hvd.allreduce(x * x, op=hvd.Sum)
    assert float(tape.gradient(y, x)) == 2 * (2 * (rank + 1))


@case
def whole_numbers_are_scaled_and_averaged_as_numbers():
    x = tf.constant([3, 4]) * (rank + 1)
    assert hvd.allreduce(x, op=hvd.Sum, prescale_factor=0.5).numpy().tolist() == [1 + 3, 2 + 4]
    assert hvd.allreduce(x, op=hvd.Product).numpy().tolist() == [18, 32]
    slices = tf.IndexedSlices(tf.constant([[4, 7]]), tf.constant([1]), tf.constant([2, 2]))
    assert tf.convert_to_tensor(hvd.allreduce(slices)).numpy().tolist() == [[0, 0], [4, 6]]


@case
def gather_and_broadcast_have_gradients():
    x = tf.constant([[1.0]] * (rank + 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        gathered = tf.reduce_sum(hvd.allgather(x) * tf.constant([[1.0], [2.0], [3.0]]) * (rank + 1.0))
        sent = 5.0 * hvd.broadcast(x[:1], root_rank=1)
    # Each rank's loss counts: with the weights 1 and 2 every row has three times its factor.
    assert tape.gradient(gathered, x).numpy().tolist() == [[[3.0]], [[6.0], [9.0]]][rank]
    assert tape.gradient(sent, x).numpy().tolist() == [[[0.0]], [[10.0], [0.0]]][rank]


@case
def each_rank_has_its_rows_of_the_sum():
    x = tf.constant([[1.0], [2.0], [3.0]]) * (rank + 1)
    assert hvd.reducescatter(x, op=hvd.Sum).numpy().tolist() == [[[3.0], [6.0]], [[9.0]]][rank]
    (mean,) = tf.function(lambda: hvd.grouped_reducescatter([x[:2]]))()
    assert mean.numpy().tolist() == [[[1.5]], [[3.0]]][rank]


@case
def gather_broadcast_alltoall():
    np.testing.assert_array_equal(hvd.allgather(tf.fill([rank + 1, 1], rank)), [[0], [1], [1]])
    assert float(hvd.broadcast(tf.constant(float(rank)), root_rank=1)) == 1
    np.testing.assert_array_equal(hvd.alltoall(tf.constant([10 * rank, 10 * rank + 1])), [rank, 10 + rank])
    rows, counts = hvd.alltoall(tf.constant([rank, rank, rank]), splits=[1, 2])
    assert rows.numpy().tolist() == [[0, 1], [0, 0, 1, 1]][rank]
    assert counts.numpy().tolist() == [rank + 1] * 2


@case
def objects():
    assert hvd.broadcast_object({"rank": rank}, root_rank=1) == {"rank": 1}
    assert hvd.allgather_object(rank) == [0, 1]
    hvd.barrier()


@case
def broadcast_variables():
    variables = [tf.Variable(float(rank)), keras.Variable([rank, rank])]
    hvd.broadcast_variables(variables, root_rank=1)
    assert float(variables[0]) == 1
    assert np.asarray(variables[1]).tolist() == [1, 1]
    (same,) = hvd.broadcast_([tf.Variable([rank, 7])], root_rank=1)
    assert same.numpy().tolist() == [1, 7]
    assert "no rank 5" in raises("ValueError", hvd.broadcast_variables, variables, 5)


@case
def variables_are_broadcast_in_a_function_too():
    variables = [tf.Variable(float(rank)), keras.Variable([rank, rank])]
    optimizer = keras.optimizers.Adam(float(rank + 1))

    @tf.function
    def step(first):
        optimizer.apply_gradients([(tf.constant(0.0), variables[0])])
        if first:
            hvd.broadcast_variables(variables, root_rank=1)
            hvd.broadcast_variables(optimizer.variables(), root_rank=1)

    step(True)
    step(False)
    assert float(variables[0]) == 1
    assert np.asarray(variables[1]).tolist() == [1, 1]
    assert float(optimizer.learning_rate) == 2


@case
def ranks_are_tensors_in_a_function():
    assert int(tf.function(lambda: hvd.rank_op() + 10 * hvd.size_op())()) == rank + 20
    assert int(hvd.local_rank_op() + 10 * hvd.local_size_op()) == rank + 20
    assert float(hvd.allreduce(tf.constant(1.0), op=hvd.Sum, process_set=hvd.global_process_set)) == 2


@case
def synchronised_statistics_are_those_of_the_joined_batch():
    joined = np.random.default_rng(1).normal(3, 2, size=(6, 5, 2)).astype("float32")
    plain, synced = keras.layers.BatchNormalization(), hvd.SyncBatchNormalization()
    outputs = []
    # Ranks may have different numbers of samples.
    for layer, share in ((plain, joined), (synced, joined[: 2 + rank] if rank == 0 else joined[2:])):
        x = tf.constant(share)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * y * y)
        outputs.append((y, tape.gradient(loss, x)))
    mine = slice(0, 2) if rank == 0 else slice(2, 6)
    for whole, part in zip(*outputs, strict=True):
        np.testing.assert_allclose(part, whole[mine], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.asarray(synced.moving_variance), np.asarray(plain.moving_variance), rtol=1e-4)


@case
def mixed_precision_averages_before_it_looks_for_overflow():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(horovod.keras.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse")
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    # Only one rank's gradient overflows: all must leave the step out.
    huge = np.full((4, 2), 60000 if rank == 1 else 1, "float32")
    model.fit(huge, np.ones((4, 1)), verbose=0)
    assert hvd.allgather_object(np.asarray(model.get_weights()[0]).tolist()) == [[[1.0], [1.0]]] * 2
    model.fit(np.full((4, 2), 1e-3), np.ones((4, 1)), epochs=20, verbose=0)
    first, second = hvd.allgather_object(np.asarray(model.get_weights()[0]).tolist())
    assert first == second != [[1.0], [1.0]]


@case
def join_lets_the_others_finish():
    for step in range(3 + 2 * rank):
        total = float(hvd.allreduce(tf.constant(1.0), op=hvd.Sum, name=f"step {step}"))
        assert total == (2 if step < 3 else 1)
    assert hvd.join() == 1


@case
def accumulated_passes_add_up():
    weight = tf.Variable(0.0)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), backward_passes_per_step=2)
    for gradient in (1.0, 2.0, 5.0):
        optimizer.apply_gradients([(tf.constant(gradient * (rank + 1)), weight)])
    assert abs(float(weight) + 4.5) < 1e-6, weight


@case
def metrics_are_reset_by_their_older_name():
    mean = keras.metrics.Mean()
    mean(3.0)
    mean.reset_states()
    assert float(mean.result()) == 0


@case
def keras_values():
    assert float(horovod.keras.allreduce(float(rank))) == 0.5
    assert float(horovod.keras.broadcast(float(rank), 1)) == 1
    assert horovod.keras.allgather([rank]).tolist() == [0, 1]


@case
def sessions_train_on_averaged_gradients_from_the_roots_variables():
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        weight = v1.get_variable("weight", initializer=tf.constant([float(rank), 2.0 * rank]))
        share = v1.placeholder(tf.float32, [2])
        loss = tf.reduce_sum(weight * share)
        train = hvd.DistributedOptimizer(v1.train.GradientDescentOptimizer(1.0)).minimize(loss)
        mean = hvd.allreduce(loss)
        hooks = [hvd.BroadcastGlobalVariablesHook(1)]
        with v1.train.MonitoredTrainingSession(hooks=hooks) as session:
            assert session.run(weight).tolist() == [1, 2]
            feed = {share: [1.0 + rank, 0.0]}
            # The mean is no part of the step: running one leaves the other out.
            assert session.run(mean, feed) == 1.5
            assert session.run(weight).tolist() == [1, 2]
            session.run(train, feed)
            assert session.run(weight).tolist() == [-0.5, 2]
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run(hvd.broadcast_global_variables(0))
            assert session.run(weight).tolist() == [0, 0]


@case
def elastic_state_is_that_of_the_first_rank_and_can_be_restored():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(horovod.keras.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    model.fit(np.full((4, 2), rank + 1.0), np.ones((4, 1)), verbose=0)
    state = horovod.keras.elastic.KerasState(model, epoch=rank + 3, batch=0)
    called = []
    state.register_reset_callbacks([lambda: called.append("reset")])

    @hvd.elastic.run
    def train(state, epochs):
        assert state.epoch == 3
        assert len({str(weights) for weights in hvd.allgather_object(model.get_weights())}) == 1
        callbacks = [
            horovod.keras.elastic.UpdateEpochStateCallback(state),
            horovod.keras.elastic.UpdateBatchStateCallback(state),
            horovod.keras.elastic.CommitStateCallback(state),
        ]
        model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0)
        return model.get_weights()

    trained = train(state, epochs=2)
    assert (state.epoch, state.batch, called) == (5, 0, [])
    model.set_weights([np.zeros_like(weights) for weights in trained])
    state.epoch = 9
    state.restore()
    assert state.epoch == 5
    for mine, kept in zip(model.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(mine, kept)
    variable = tf.Variable(float(rank))
    both = hvd.elastic.TensorFlowState([variable], step=rank)
    both.sync()
    assert (float(variable), both.step) == (0, 0)


@case
def the_best_model_is_kept():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(horovod.keras.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse")
    path = f"best-{rank}.keras"
    best = horovod.keras.callbacks.BestModelCheckpoint(filepath=path, monitor="loss")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, callbacks=[best], verbose=0)
    np.testing.assert_array_equal(keras.saving.load_model(path).get_weights()[0], model.get_weights()[0])
    assert "filepath" in raises("ValueError", horovod.keras.callbacks.BestModelCheckpoint)


@case
def sagemakers_calls():
    assert sdp.get_worker_comm().gather(rank, root=0) == [[0, 1], None][rank]
    gradient = tf.constant([float(rank)])
    assert sdp.allreduce(gradient, 0, 1).numpy().tolist() == [0.5]
    assert sdp.allreduce(grad=gradient, param_index=0, num_params=1).numpy().tolist() == [0.5]
    assert "one tensor" in raises("TypeError", sdp.allreduce, param_index=0, num_params=1)
    assert smdistributed.dataparallel.__version__.endswith("clary")


@case
def what_is_not_offered_names_the_alternative():
    assert "op=Average" in raises("NotOffered", lambda: hvd.Adasum)
    assert "horovod.tensorflow or horovod.keras" in raises("NotOffered", lambda: horovod.torch)
    assert "elastic.CommitStateCallback" in raises(
        "AttributeError", lambda: horovod.keras.callbacks.CommitStateCallback
    )
    assert "use DistributedGradientTape" in raises("NotOffered", hvd.DistributedOptimizer, object())
    assert "at each step" in raises(
        "NotOffered", hvd.DistributedOptimizer, tf.compat.v1.train.AdamOptimizer(), backward_passes_per_step=2
    )
    assert "broadcast_variables" in raises("RuntimeError", hvd.broadcast_global_variables, 0)
    assert "not_a_name" in raises("AttributeError", lambda: hvd.not_a_name)


@case
def a_model_is_saved_and_loaded_with_its_optimizer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(horovod.keras.DistributedOptimizer(keras.optimizers.Adam(0.5)), "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    path = f"model-{rank}.keras"
    model.save(path)
    loaded = horovod.keras.load_model(path)
    assert type(loaded.optimizer) is keras.optimizers.Adam
    assert int(loaded.optimizer.iterations) == 1
    loaded.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    # The ranks' weights differ from the start, but not what they were changed by.
    before, after = model.get_weights()[0], loaded.get_weights()[0]
    assert len({str(change) for change in hvd.allgather_object((after - before).round(4).tolist())}) == 1


failures = {}
for each in CASES:
    try:
        each()
        failures[each.__name__] = None
    except Exception:  # noqa: BLE001 (reported, by name)
        failures[each.__name__] = traceback.format_exc()
        break
    finally:
        report(failures, rank)
if any(failures.values()):
    raise SystemExit(1)

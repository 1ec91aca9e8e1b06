"""A branching model under the parameters that the first argument says (JSON); reports how it trained and was parted.

With a second argument, `memory`: a wide model, under a limit of memory for each process; reports its losses and what
this rank holds. Or `forward`: the branching model without training.
"""

import json
import sys
from pathlib import Path
from typing import Any

import smdistributed.modelparallel.tensorflow as smp

smp.init(json.loads(sys.argv[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from rank_report import report  # noqa: E402
from smp_cases import in_one_process, raises, train_step_of  # noqa: E402

from clary_parallel.pipelining.held import is_absent  # noqa: E402

L = keras.layers
RANDOM = np.random.default_rng(0)


WIDTHS = (40, 60, 20)


def branching() -> tuple[Any, Any]:
    """Three branches; alike heavy are the last two on one side, and the first with the head on the other."""
    keras.utils.set_random_seed(5)
    inputs = [keras.Input((width,)) for width in WIDTHS]
    branches = [L.Dense(8, "tanh", name=f"from_{width}")(x) for width, x in zip(WIDTHS, inputs, strict=True)]
    return inputs, L.Dense(3, name="head")(L.Concatenate(name="join")(branches))


def trains() -> dict[str, Any]:
    model, plain = smp.DistributedModel(*branching()), keras.Model(*branching())
    x, y = [RANDOM.normal(size=(16, width)).astype("float32") for width in WIDTHS], RANDOM.integers(0, 3, 16)
    train_step = train_step_of(model, keras.optimizers.SGD(0.2))
    losses = [float(train_step(x, y)[0]) for _ in range(3)]
    expected, _ = in_one_process(plain, keras.optimizers.SGD(0.2), 3, x, y)
    plan = model.parts().plan
    pairs = zip(model.get_weights(), plain.get_weights(), strict=True)
    return {
        "absent": [item.path for item in model.whole_variables() if is_absent(item)],
        "apart": max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs),
        "losses": float(np.abs(np.subtract(losses, expected)).max()),
        "parted": {
            op.name.split("/")[0]: stage for op, stage in zip(plan.graph.operations, plan.stage_of, strict=True)
        },
    }


def predicts() -> dict[str, Any]:
    model, plain = smp.DistributedModel(*branching()), keras.Model(*branching())
    x, y = [RANDOM.normal(size=(16, width)).astype("float32") for width in WIDTHS], RANDOM.integers(0, 3, 16)
    predicted = smp.step(lambda x: model(x))(x).merge()
    refused = raises("StepError", train_step_of(model, keras.optimizers.SGD(0.2)), x, y)
    return {"apart": float(np.abs(predicted - plain(x)).max()), "refused": refused, "group": smp.get_mp_group()}


class Wide(smp.DistributedModel):
    """Weights of 192 MiB; training takes them four times (gradients twice, momentum). Built when it is parted."""

    def __init__(self) -> None:
        super().__init__()
        keras.utils.set_random_seed(0)
        self.wide = [L.Dense(2048, activation="tanh") for _ in range(12)]
        self.head = L.Dense(4)

    def call(self, x: Any) -> Any:
        for layer in self.wide:
            x = layer(x)
        return self.head(x)


def status(name: str) -> int:
    """A line of the kernel's of this process, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) << 10


def holds() -> dict[str, Any]:
    small = keras.Sequential([keras.Input((4,)), L.Dense(4)])
    small.compile("adam", "mse")
    small.train_on_batch(
        np.ones((4, 4)), np.ones((4, 4))
    )  # Threads, kernels, a compiler: what TensorFlow takes anyhow.
    before = status("VmRSS")
    model, optimizer = Wide(), keras.optimizers.SGD(1e-3, momentum=0.9)
    x = RANDOM.normal(size=(32, 2048)).astype("float32")

    @smp.step
    def get_gradients(x: Any) -> Any:
        loss = tf.reduce_mean((model(x) - x[:, :4]) ** 2)
        return optimizer.get_gradients(loss, model.trainable_variables), loss

    resident = []
    smp.register_post_partition_hook(lambda: resident.append(status("VmRSS") - before))

    @tf.function
    def train_step(x: Any) -> Any:
        gradients, loss = get_gradients(x)
        pairs = zip([item.accumulate() for item in gradients], model.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)
        return loss.reduce_mean()

    losses = [float(train_step(x)) for _ in range(3)]
    weights, whole = (
        sum(int(np.prod(item.shape)) * 4 for item in items) for items in (model.variables, model.whole_variables())
    )
    return {
        "losses": losses,
        "parted": resident[0],
        "weights": weights,
        "whole": whole,
        "peak": status("VmHWM") - before,
    }


report({"memory": holds, "forward": predicts, "": trains}[(*sys.argv, "")[2]](), smp.rank())

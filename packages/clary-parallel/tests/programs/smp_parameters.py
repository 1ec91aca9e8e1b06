"""A branching model under the parameters that the first argument says (JSON); reports how it trained and was parted.

With a second argument, `forward`: without training.
"""

import json
import sys
from typing import Any

import smdistributed.modelparallel.tensorflow as smp

smp.init(json.loads(sys.argv[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
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
    return {
        "apart": float(np.abs(predicted - plain(x)).max()),
        "refused": refused,
        "group": smp.get_mp_group(),
        "seconds": [operation.seconds for operation in model.parts().plan.graph.operations],
    }


report({"forward": predicts, "": trains}[(*sys.argv, "")[2]](), smp.rank())

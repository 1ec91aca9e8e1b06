"""Says which GPUs it sees, and then does what its hyperparameters name."""

import json
import os
import signal
import subprocess
import sys
import time

import cuda

arguments = dict(zip((word.lstrip("-") for word in sys.argv[1::2]), sys.argv[2::2]))
base = os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml")
with open(os.path.join(base, "input", "config", "resourceconfig.json")) as file:
    resources = json.load(file)
found = cuda.seen()
found["devices"] = cuda.devices()
found["instance_type"] = resources.get("current_instance_type")
found["variables"] = {
    name: os.environ.get(name) for name in ("SM_NUM_GPUS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
}
found["base"] = base
if found["count"]:
    gpu = cuda.Gpu()
    found["name"] = gpu.name
    found["answers"] = gpu.add_ones([0.0, 0.5, 41.0], 1)
print("SEEN " + json.dumps(found), flush=True)

if arguments["do"] == "compute":
    numbers = [float(n) for n in range(1000)] * 1000
    held = gpu.allocate(gpu.total_memory() // 4)
    end = time.monotonic() + float(arguments["seconds"])
    rounds = 0
    while time.monotonic() < end:
        answers = gpu.add_ones(numbers, 4000000)
        rounds += 1
    print("ROUNDS %d" % rounds, flush=True)
if arguments["do"] == "product":
    product = "import torch; a = torch.rand(4096, 4096, device='cuda'); b = (a @ a).sum().item(); print('PRODUCT', b > 0)"
    subprocess.run([arguments["python"], "-c", product], check=True)
if arguments["do"] == "stay":
    time.sleep(600)
if arguments["do"] == "die":
    os.kill(os.getpid(), signal.SIGKILL)

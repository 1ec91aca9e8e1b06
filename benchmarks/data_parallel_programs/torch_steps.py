"""Times steps of a PyTorch model: `torch_steps.py NAME resnet18|transformer stock|parallel STEPS`."""

import os
import sys
import time

name, which, how, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
rank = int(os.environ.get("BENCHMARK_RANK", "0"))

from timing import pin, write  # noqa: E402

pin(rank)

import torch  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(1)


class Block(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.short = nn.Identity()
        if stride > 1 or before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5000, 256)
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True) for _ in range(4))
        )
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(self.blocks(self.embedding(x)).mean(1))


batch = 16
if which == "resnet18":
    blocks, before = [], 64
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        blocks.append(Block(before, width, stride))
        before = width
    start = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    model = nn.Sequential(*start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    inputs = torch.randn(batch, 3, 32, 32)
else:
    model = Transformer()
    inputs = torch.randint(0, 5000, (batch, 128))
if how == "parallel":
    torch.distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
labels = torch.arange(batch) % 10
times = []
for _ in range(steps):
    began = time.perf_counter()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    times.append(time.perf_counter() - began)
write(name, rank, times)
if how == "parallel":
    torch.distributed.destroy_process_group()

"""Run by torchrun: a network is trained by all processes together, and what came of it is printed by the first."""

import json
import os
import sys

import torch
from training_problem import loaders, network

from compressor.distributed import AccelerateGroup, SingleProcess
from compressor.plan import LayerPlan, Plan
from compressor.surgery import apply, skeleton
from compressor.training.loop import TrainOptions, fit
from compressor.training.schedules import SCHEDULES, Step

PLAN = Plan(
    (LayerPlan("3", (12, 12, 3, 3), "cp", (16,), "rank given"), LayerPlan("7", (4, 192), "svd", (3,), "rank given")),
    "given",
    "ranks given",
)


def main():
    torch.set_num_threads(1)
    group = SingleProcess() if sys.argv[1] == "alone" else AccelerateGroup()
    module = network() if group.is_main else network(seed=9)

    def cut(module, layers):
        if group.is_main:
            apply(module, layers)
        else:
            skeleton(module, layers)

    train, validation = loaders(480, 1000)
    options = TrainOptions(rate=3e-3)
    fit(module, train, validation, (Step((), 6),), options, group=group)
    rows = fit(module, train, validation, SCHEDULES["iterative"](PLAN, 3), options, cut, group=group)
    sums = list(group.map(lambda item: item * 10, range(5)))
    processes = list(group.map(lambda _place: os.getpid(), range(2)))
    total = float(sum(value.detach().double().abs().sum() for value in module.parameters()))
    totals = list(group.map(lambda _place: total, range(2)))
    if group.is_main:
        print(json.dumps({"top1": rows[-1].top1, "each": sums, "processes": len(set(processes)), "totals": totals}))


if __name__ == "__main__":
    main()

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_problem import loaders

from compressor.distributed import AccelerateGroup, ProcessGroupError, SingleProcess

HERE = Path(__file__).parent


def script(*words):
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_train_as_one_does():
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    alone, two = script("process_group_script.py", "alone"), script(*torchrun, "process_group_script.py", "two")
    assert (alone["processes"], two["processes"]) == (1, 2)
    assert alone["top1"] > 90
    assert two["top1"] == pytest.approx(alone["top1"], abs=0.3)
    assert two["each"] == alone["each"] == [0, 10, 20, 30, 40]
    assert two["totals"][0] == two["totals"][1]


def test_one_process_alone_changes_nothing():
    group, loader = SingleProcess(), loaders()[0]
    assert group.shard(loader) is loader
    assert list(group.map(len, ["a", "bb"])) == [1, 2]
    value = torch.ones(1, requires_grad=True)
    group.backward((3 * value).sum())
    assert value.grad == 3


def test_a_batch_that_cannot_be_split_evenly_is_refused(monkeypatch):
    group = AccelerateGroup()
    monkeypatch.setattr(type(group._accelerator), "num_processes", 3)
    with pytest.raises(
        ProcessGroupError, match=r"batches of 16 images cannot be split evenly among 3 processes; set source.batch"
    ):
        group.shard(loaders()[0])


def test_a_network_is_made_ready_anew_for_every_step():
    """The first step's end takes half precision off the network; the next step has it again."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    try:
        group, network, images = AccelerateGroup("bf16"), torch.nn.Linear(64, 8), torch.randn(16, 64)
        whole, halves = network(images).detach(), []
        for _ in range(2):
            shared, _optimizer = group.prepare(network, torch.optim.SGD(network.parameters(), 0.1))
            halves.append((shared(images) - whole).abs().max().item())
            group.release(shared)
            assert torch.equal(network(images), whole)
        assert halves[0] == halves[1] > 1e-4
    finally:
        AcceleratorState._reset_state(True)


def test_an_optimizers_state_follows_its_parameters():
    """The state of a checkpoint comes from the CPU. "meta" stands for a GPU; parameters move there as to one."""
    network = torch.nn.Linear(4, 5)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        moved, stepping = SingleProcess(torch.device("meta")).prepare(network, optimizer)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    for parameter in moved.parameters():
        assert (
            {value.device.type for value in stepping.state[parameter].values()} == {parameter.device.type} == {"meta"}
        )

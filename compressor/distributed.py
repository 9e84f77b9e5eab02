"""The group of processes, and the device, that train one network together, through Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from accelerate import Accelerator

Value = TypeVar("Value")
Item = TypeVar("Item")
Batches = Iterable[tuple[Tensor, Tensor]]

PATIENCE = timedelta(days=7)
"""The longest that a process waits for the others: while the first plans or measures, they have nothing to do."""


class ProcessGroupError(RuntimeError):
    """Processes that cannot train together as asked; the text names the cure."""


class ProcessGroup(Protocol):
    """The processes that train together. Every method but `backward` is called by all of them at once.

    `is_main` is true in the process that decides, writes and reports.
    """

    @property
    def is_main(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Network and optimizer such that a step of one is a step of all; all start from the main process's weights."""
        ...

    def release(self, network: nn.Module) -> None:
        """Ends what `prepare` began with this network."""
        ...

    def shard(self, loader: DataLoader[Any]) -> Batches:
        """This process's part of every batch."""
        ...

    def backward(self, loss: Tensor) -> None: ...

    def broadcast(self, value: Value) -> Value:
        """The main process's value, in every process."""
        ...

    def map(self, work: Callable[[Item], Value], items: Sequence[Item]) -> Iterator[Value]:
        """The results of `work`, in the order of the items, which are dealt out to the processes round by round."""
        ...


def _exact() -> None:
    """Convolutions on a GPU run in float32, not TF32: answers are compared with a CPU's."""
    torch.backends.cudnn.allow_tf32 = False


class SingleProcess:
    """One process on one device, by default the CPU: every method is what it would be without it."""

    is_main = True

    def __init__(self, device: torch.device | None = None) -> None:
        _exact()
        self.device = device or torch.device("cpu")

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        network.to(self.device)
        optimizer.load_state_dict(optimizer.state_dict())  # a checkpoint's state lies where its parameters lay
        return network, optimizer

    def release(self, network: nn.Module) -> None:
        del network

    def shard(self, loader: DataLoader[Any]) -> Batches:
        return loader

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def broadcast(self, value: Value) -> Value:
        return value

    def map(self, work: Callable[[Item], Value], items: Sequence[Item]) -> Iterator[Value]:
        return (work(item) for item in items)


SINGLE_PROCESS = SingleProcess()


class AccelerateGroup:
    """The processes that torchrun started, or one with a GPU. A batch is split evenly among them, and they step by the
    mean of their gradients.

    That is the step that one process takes with the whole batch, but for rounding, where the loss is a mean over images
    that are independent of each other. It is not where BatchNorm takes statistics (of each process's own part; the
    main one's running ones count), images have no label (the mean is over each part's labelled ones), a layer draws
    (dropout), or the last batch is not full (it is filled up with images that the epoch began with).
    """

    def __init__(self, mixed_precision: str = "no") -> None:
        from accelerate import Accelerator, DataLoaderConfiguration
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

        _exact()
        self._accelerator: Accelerator = Accelerator(
            mixed_precision=mixed_precision,
            cpu=not torch.cuda.is_available(),
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            # A network may hold layers that never run.
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )

    @property
    def is_main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self._accelerator.device)

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        shared, stepping = self._accelerator.prepare(network, optimizer)
        return cast(nn.Module, shared), cast(torch.optim.Optimizer, stepping)

    def release(self, network: nn.Module) -> None:
        bare = self._accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        vars(bare).pop("_is_accelerate_prepared", None)  # it would not be prepared again for the next step
        self._accelerator.free_memory()

    def shard(self, loader: DataLoader[Any]) -> Batches:
        batch, count = loader.batch_size or 1, self._accelerator.num_processes
        if batch % count:
            raise ProcessGroupError(
                f"batches of {batch} images cannot be split evenly among {count} processes; set source.batch to a "
                f"multiple of {count}, or start another number of processes"
            )
        return cast(Batches, self._accelerator.prepare_data_loader(loader))

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def broadcast(self, value: Value) -> Value:
        from accelerate.utils import broadcast_object_list

        return cast(Value, broadcast_object_list([value])[0])

    def map(self, work: Callable[[Item], Value], items: Sequence[Item]) -> Iterator[Value]:
        from accelerate.utils import gather_object

        count, place = self._accelerator.num_processes, self._accelerator.process_index
        for start in range(0, len(items), count):
            own = start + place
            values = gather_object([work(items[own]) if own < len(items) else None])
            yield from values[: len(items) - start]

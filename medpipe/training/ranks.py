"""Training by several processes, as `torchrun` starts them: each cuts its own patches, gradients are averaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among `world`; the first one measures, saves and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def spread(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are averaged over the processes; itself where there is one process."""
        if self.world == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def agreed(self, value: float, device: torch.device) -> float:
        """The first process's value, so that all end at the same step."""
        if self.world == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(told, 0)
        return float(told.item())

    def wait(self) -> None:
        """Until all have come here."""
        if self.world > 1:
            distributed.barrier()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that torchrun started (its WORLD_SIZE and RANK); alone where it did not."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world)
    finally:
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """`cuda` of a process that torchrun started is the GPU of its own number."""
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device

"""Data-parallel training: Lightning starts and connects the processes, the task averages its gradients once a step.

PyTorch's DDP wrapper expects one backward pass through all parameters; a task has several phases, each with its own parameters.
"""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn


class AveragingStrategy(DDPStrategy):
    """Lightning's DDP without the wrapper module; all processes start with the weights of the first."""

    def configure_ddp(self) -> None:
        assert self.model is not None
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                torch.distributed.broadcast(tensor.data, src=0)


def average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    """g <- mean of g over the processes; a parameter without a gradient counts as zero. One exchange for all parameters."""
    if processes == 1:
        return
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten().float() for g in grads])
    torch.distributed.all_reduce(flat)
    flat /= processes
    for p, part in zip(parameters, torch.split(flat, [g.numel() for g in grads]), strict=True):
        p.grad = part.view_as(p).to(p.dtype)

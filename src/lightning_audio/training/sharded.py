"""Weights, gradients and the optimizer's state parted over processes (FSDP2), for encoders that are too big.

Each process keeps a part of every tensor; a block's are brought together while it computes. A checkpoint is
one file of whole tensors, as of any run, which any number of processes resumes from and every program reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lightning_audio.tasks.base import AudioTask

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
STEPS = ("training_step", "validation_step", "test_step")


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes; its gradients are the mean over them, as those of DDP are.

    While a split is scored each process holds whole weights: processes may have unequally many batches.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()
        task = self.lightning_module
        assert isinstance(task, AudioTask)
        mesh = self.device_mesh["data_parallel"]
        # Lightning asks the module for it, which knows nothing of processes.
        task.configure_model = lambda: self._shard(task, mesh)  # type: ignore[method-assign]

    def _shard(self, task: AudioTask, mesh: DeviceMesh) -> None:
        if self._layer_sync and not isinstance(task, FSDPModule):
            self._layer_sync.apply(task)
        shard(task, mesh)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole tensors, numbered as an optimizer numbers them by itself; in the first process alone."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        found: dict[str, Any] = get_optimizer_state_dict(self._task, optimizer, options=WHOLE)
        return _renamed(found, {name: n for n, name in enumerate(self._names(optimizer))}) if found else {}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        self._task.load_state_dict(checkpoint["state_dict"])
        for optimizer, saved in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            whole = _renamed(saved, dict(enumerate(self._names(optimizer))))
            set_optimizer_state_dict(self._task, optimizer, whole, options=WHOLE)
        return checkpoint

    @property
    def _task(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Of the weights, in the order of the optimizer."""
        names = {weight: name for name, weight in self._task.named_parameters()}
        return [names[weight] for group in optimizer.param_groups for weight in group["params"]]

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._keep_whole(True)

    def on_validation_end(self) -> None:
        super().on_validation_end()
        self._keep_whole(False)

    def on_test_start(self) -> None:
        super().on_test_start()
        self._keep_whole(True)

    def on_test_end(self) -> None:
        super().on_test_end()
        self._keep_whole(False)

    def _keep_whole(self, whole: bool) -> None:
        for module in self._task.modules():
            if isinstance(module, FSDPModule):
                module.set_reshard_after_forward(not whole, recurse=False)
                (module.unshard if whole else module.reshard)()
        if whole:  # the statistics of batch norms are those of the first process, which a checkpoint keeps
            for buffer in self._task.buffers():
                dist.broadcast(buffer, 0)


def _renamed(state: dict[str, Any], names: Mapping[Any, Any]) -> dict[str, Any]:
    """The state of an optimizer with other names of its weights."""
    groups = [
        group | {"params": [names[name] for name in group["params"]]} for group in state["param_groups"]
    ]
    return {"state": {names[name]: one for name, one in state["state"].items()}, "param_groups": groups}


def shard(task: AudioTask, mesh: DeviceMesh) -> None:
    """Parts the weights of a task over the processes of `mesh`, those of the first one; once."""
    if isinstance(task, FSDPModule):
        return
    tuning, whole = task.finetuning, [*task.parameters()]
    for tensor in (*whole, *task.buffers()):
        dist.broadcast(tensor.detach(), 0)
    for block in (*reversed([*_blocks(task)]), task):  # what is within another one first
        fully_shard(block, mesh=mesh)
    parts = dict(zip(whole, task.parameters(), strict=True))  # other objects, which learn in place of these
    tuning.parameters = {parts[one]: place for one, place in tuning.parameters.items()}
    tuning.learnable = {parts[one]: place for one, place in tuning.learnable.items()}
    for step in STEPS:
        register_fsdp_forward_method(task, step)
    task.register_load_state_dict_pre_hook(_part)


def _blocks(task: nn.Module) -> Iterator[nn.Module]:
    """The layers of a stack, which compute one after the other: what is whole at a time."""
    for module in task.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            yield from (block for block in module if any(True for _ in block.parameters()))


def _part(task: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Whole tensors that are loaded become this process's parts of them."""
    own = dict(task.named_parameters())
    for name, value in state.items():
        known = own.get(name)
        if isinstance(known, DTensor) and isinstance(value, torch.Tensor) and not isinstance(value, DTensor):
            value = value.to(known.device)
            place = (known.device_mesh, known.placements)
            state[name] = distribute_tensor(value, *place, src_data_rank=None)  # all have read the same

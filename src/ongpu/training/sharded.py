"""Weights in parts: each rank holds a piece of every weight, its gradient and its optimizer state (FSDP2).

For models whose weights and optimizer state do not fit on one GPU. A block's weights are gathered before it runs and
dropped behind it; what the optimizer sees are this rank's pieces. In a checkpoint, too, each rank writes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ongpu.training.precision import Weights
from ongpu.training.reduce import OneRank


class ShardedWeights(Weights):
    """This rank's float32 pieces; with ``half`` the model computes with bfloat16 copies gathered from them."""

    in_parts = True

    def __init__(self, model: Any, *, device: str, world_size: int, half: bool) -> None:
        mesh = init_device_mesh(device, (world_size,))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # the angles of rotary positions stay float32
        )
        blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(model, "loss_sum")
        model.to(device)
        super().__init__(model, device=device)
        self._wholes: dict[str, Any] = dict(self.masters)
        # a Parameter of its own that shares the piece's memory: the optimizer needs to know nothing of DTensor
        self.masters = {name: torch.nn.Parameter(whole.to_local()) for name, whole in self._wholes.items()}

    def forget_gradients(self) -> None:
        """Give up the gradients."""
        self.model.reshard()  # an evaluation leaves what belongs to no block gathered, and soon out of date
        for name, whole in self._wholes.items():
            whole.grad = self.masters[name].grad = None

    def gather_gradients(self, *, first: bool, whole: bool) -> None:  # noqa: ARG002 - they add up where they are
        """After each backward pass: show the optimizer this rank's pieces of the gradients."""
        for name, weight in self._wholes.items():
            self.masters[name].grad = None if weight.grad is None else weight.grad.to_local()

    def restore(self) -> None:
        """On the first rank, put whole weights in the pieces' place, on the CPU, for saving.

        The model cannot be trained on after that.
        """
        self.model.reshard()
        for name, whole in self._wholes.items():
            full = whole.detach().full_tensor()  # all ranks give their piece
            if dist.get_rank() == 0:
                owner, _, leaf = name.rpartition(".")
                self.model.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(full.to("cpu"))

    def part(self, name: str, tensor: Any) -> Any:
        """``tensor``, this rank's piece of the weight ``name`` or of a state beside it, as part of the whole."""
        like = self._wholes[name]
        return DTensor.from_local(
            tensor.detach(), like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )

    def put(self, part: Any, whole: Any) -> None:
        """Copy this rank's piece of ``whole``, which every rank has, into ``part``."""
        if isinstance(part, DTensor):
            part, whole = part.to_local(), distribute_tensor(whole, part.device_mesh, part.placements).to_local()
        part.copy_(whole)


class ShardedRanks(OneRank):
    """Ranks that hold pieces: FSDP adds their gradients up, in float32; what is left are the loss and the norm."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size

    def backward(self, loss: Any, *, whole: bool) -> None:  # noqa: ARG002 - FSDP adds up in every micro-step
        """The backward pass; FSDP takes the mean over all ranks, where the sum is wanted."""
        (loss * self._world_size).backward()

    def close(self, loss: Any, *, whole: bool) -> Any:  # noqa: ARG002 - see backward
        """After the last micro-step: the loss of all ranks."""
        dist.all_reduce(loss)
        return loss

    def clip(self, weights: Sequence[Any], limit: float) -> Any:
        """Scale the gradients down to the norm ``limit``; returns the norm they had, over all pieces."""
        squares = torch.stack(torch._foreach_norm([weight.grad for weight in weights])).square().sum()
        dist.all_reduce(squares)
        norm = squares.sqrt()
        torch.nn.utils.clip_grads_with_norm_(weights, limit, norm, foreach=True)
        return norm

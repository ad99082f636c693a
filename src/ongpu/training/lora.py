"""LoRA (Hu et al. 2021): the model stays as it is, and a product of two thin matrices is learned beside each layer.

Beside our own models' layers it is a few lines of our own, saved as the peft library saves it (``adapter_config.json``,
``adapter_model.safetensors``), so that peft and transformers load it onto the same base. Beside a model of
transformers it is peft itself.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from ongpu.errors import UsageError, WorkError
from ongpu.training import gpt2, llama
from ongpu.training.config import Config

ADAPTER: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"


class Adapted(nn.Module):
    """A linear layer that is not trained, and the two matrices beside it that are."""

    def __init__(self, inner: Any, *, rank: int, scale: float, seed: int, name: str) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        outputs, inputs = inner.weight.shape
        if isinstance(inner, gpt2.Projection):
            outputs, inputs = inputs, outputs
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))  # so that the first step begins at the model as it is
        digest = hashlib.sha256(f"{seed}/lora/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        with torch.no_grad():
            self.lora_A.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)

    def forward(self, x: Any) -> Any:
        """As the layer, plus what was learned."""
        return self.inner(x) + functional.linear(functional.linear(x, self.lora_A), self.lora_B) * self.scale


def add(network: Any, config: Config, *, native: bool) -> str:
    """Put adapters beside the layers that ``config`` names and freeze everything else; returns a line for the log.

    :raises UsageError: there is nothing worth adapting, or no layer has such a name.
    :raises WorkError: a model of transformers needs peft, which is not installed.
    """
    if config.model in {"tiny", "gpt2"} or config.weights == "random":
        raise UsageError(
            "lora_rank adapts a model that was trained before, and this one has random weights.",
            next_step="Set model to a folder or a hub id with weights, or lora_rank to 0.",
        )
    if not native:
        _by_peft(network, config)
    else:
        _by_us(network, config)
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    count, whole = sum(map(torch.numel, learned)), sum(map(torch.numel, network.parameters()))
    return (
        f"LoRA: rank {config.lora_rank} beside {len(learned) // 2} layers, {count:,} of {whole:,} weights are trained"
    )


def save(network: Any, folder: Path, config: Config) -> None:
    """Write the adapters alone, as peft does.

    :raises WorkError: the disk is full or cannot be written.
    """
    import safetensors.torch  # noqa: PLC0415 - torch already is imported

    adapted = _adapted(network)
    tensors = {
        f"base_model.model.{name}.{which}.weight": getattr(layer, which).detach().float().to("cpu").contiguous()
        for name, layer in adapted.items()
        for which in ("lora_A", "lora_B")
    }
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(Path(config.model).resolve()),
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": isinstance(network, gpt2.GPT2),
        "target_modules": sorted({name.rpartition(".")[2] for name in adapted}),
        "inference_mode": True,
    }
    (folder / ADAPTER).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    try:
        safetensors.torch.save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise WorkError(f"{error}.", next_step="Make room on the disk.") from None
    shutil.copymode(folder / ADAPTER, folder / _WEIGHTS)  # safetensors makes it owner-only


def _by_us(network: Any, config: Config) -> None:
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (gpt2.Projection, llama.Linear)) and name != "lm_head"
    }
    wanted = _targets(config)
    known = {name.rpartition(".")[2] for name in layers}
    if wanted and not wanted <= known:
        raise UsageError(
            f"lora_targets names {', '.join(sorted(wanted - known))}, which the model does not have.",
            next_step=f"Use all, or some of: {', '.join(sorted(known))}.",
        )
    chosen = {name: layer for name, layer in layers.items() if not wanted or name.rpartition(".")[2] in wanted}
    narrowest = min(side for layer in chosen.values() for side in layer.weight.shape)
    if config.lora_rank > narrowest:
        raise UsageError(
            f"lora_rank {config.lora_rank} is more than a layer of this model has: {narrowest}.",
            next_step="Take a smaller lora_rank: 8 to 64 are usual.",
        )
    for weight in network.parameters():
        weight.requires_grad = False
    for name, layer in chosen.items():
        owner, _, leaf = name.rpartition(".")
        scale = config.lora_alpha / config.lora_rank
        adapted = Adapted(layer, rank=config.lora_rank, scale=scale, seed=config.seed, name=name)
        setattr(network.get_submodule(owner), leaf, adapted)


def _by_peft(network: Any, config: Config) -> None:
    try:
        peft: Any = importlib.import_module("peft")  # optional, and seconds of import time
    except ImportError:
        raise WorkError(
            f"LoRA for {config.model}, a model of transformers, needs the peft library, which is not installed.",
            next_step="Install it (pip install peft), or set lora_rank to 0.",
        ) from None
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=sorted(_targets(config)) or "all-linear",
    )
    try:
        network.inner = peft.get_peft_model(network.inner, settings)
    except ValueError as error:
        raise UsageError(
            f"peft cannot adapt {config.model}: {error}.", next_step="Name other layers in lora_targets."
        ) from None


def _targets(config: Config) -> set[str]:
    names = {name.strip() for name in config.lora_targets.split(",")} - {""}
    if not names:
        raise UsageError("lora_targets names no layer.", next_step="Use all, or the names of some layers.")
    return set() if names == {"all"} else names


def _adapted(network: Any) -> dict[str, Adapted]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Adapted)}

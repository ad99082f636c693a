"""Honest trainings as people write them, for the tests on a GPU; each skips where what it needs is not installed."""

from __future__ import annotations

import importlib.util

import pytest


def compiled(mode: str = "default") -> str:
    """``torch.compile``, in that mode."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("torch.compile needs triton here")
    return f"""
import torch
model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024), torch.nn.GELU()] * 3).cuda()
compiled = torch.compile(model, mode={mode!r})
optimizer = torch.optim.AdamW(model.parameters())
for step in range(60):
    optimizer.zero_grad()
    compiled(torch.randn(64, 1024, device="cuda")).pow(2).mean().backward()
    optimizer.step()
torch.cuda.synchronize()
"""


def trainer_of_transformers(steps: int = 60) -> str:
    """The Trainer of transformers."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return f"""
import torch, transformers
config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=256, vocab_size=512, n_positions=64)
model = transformers.GPT2LMHeadModel(config)
data = [{{"input_ids": torch.arange(64), "labels": torch.arange(64)}} for _ in range(256)]
arguments = transformers.TrainingArguments(
    output_dir="out", max_steps={steps}, per_device_train_batch_size=8, report_to=[], save_strategy="no")
transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
"""


def lightning(epochs: int = 2) -> str:
    """A module and Trainer of Lightning, of either package."""
    name = next((one for one in ("lightning", "pytorch_lightning") if importlib.util.find_spec(one)), None)
    if name is None:
        pytest.skip("lightning is not installed")
    return f"""
import torch, {name} as pl
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(512, 512)
    def training_step(self, batch, index):
        return self.layer(batch[0]).pow(2).mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4096, 512)), batch_size=16)
trainer = pl.Trainer(max_epochs={epochs}, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False)
trainer.fit(Model(), data)
"""

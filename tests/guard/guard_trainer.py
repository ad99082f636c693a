"""A pretended trainer: holds memory on the stand-in GPU and writes what an honest hook would.

It proves nothing about GPUs; it lets the whole chain of session, sampler and judge run where there is none, and lets
faults bite in the middle. ``seconds`` and ``say`` come as arguments: ``say`` is ``all``, ``nothing`` (no hook).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

UUID = "GPU-99999999-2222-4333-8444-555555555555"
RESERVED = 2 << 30


class Teller:
    """Writes records; none where it is to be silent."""

    def __init__(self, *, silent: bool) -> None:
        self.n = 0
        self.out = None if silent else Path(os.environ["ONGPU_HOOK_DIR"], "hook-pretended.jsonl").open("w")  # noqa: SIM115 - kept open

    def tell(self, record: str, **more: Any) -> None:
        if self.out is not None:
            line = {"record": record, "n": self.n, "pid": os.getpid(), "t_mono": time.monotonic(), **more}
            self.out.write(json.dumps(line) + "\n")
            self.out.flush()
        self.n += 1

    def step(self, number: int, *, final: bool = False) -> None:
        device = {"device": "cuda:0", "uuid": UUID, "allocated_bytes": RESERVED, "reserved_bytes": RESERVED}
        held = {"cuda:0": 1 << 28}
        self.tell(
            "step",
            step=number,
            optimizer=0,
            optimizer_class="AdamW",
            optimizer_step=number,
            final=final,
            parameters=held,
            gradients=held,
            state=held,
            scalars_excluded=0,
            devices=[{**device, "max_reserved_bytes": RESERVED}],
        )


seconds, state = float(sys.argv[1]), Path(os.environ["STANDIN_STATE"])
state.with_suffix(".new").write_text(f"{os.getpid()} {RESERVED + (600 << 20)}")
state.with_suffix(".new").replace(state)
teller = Teller(silent=sys.argv[2] != "all")
teller.tell(
    "torch", version="2.13.0", cuda="13.0", hip=None, rank=None, world_size=None, start_time=None, python="3.12"
)
began, number = time.monotonic(), 0
times: list[tuple[int, float]] = []
while time.monotonic() - began < seconds:
    number += 1
    times.append((number, time.monotonic()))
    if number <= 5 or number % 10 == 0:
        teller.step(number)
    time.sleep(0.05)
teller.tell("times", times=times)
teller.step(number, final=True)
last = {"step": number, "parameters_on_cuda": 2, "parameters": 2, "gradients_on_cuda": 2, "gradients": 2}
teller.tell(
    "end",
    steps=number,
    created=1,
    never_stepped=0,
    cuda_initialized=True,
    is_available=True,
    errors=0,
    records=teller.n + 1,
    optimizers=[
        {
            "optimizer": 0,
            "optimizer_class": "AdamW",
            "steps": number,
            "off_cuda_steps": 0,
            "last_sampled_step": number,
            "last": last,
        }
    ],
)
state.unlink()

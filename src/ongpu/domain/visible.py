"""Which GPUs a program sees: ``CUDA_VISIBLE_DEVICES`` hides from CUDA what NVML still lists.

The rule is that of the CUDA C++ Programming Guide ("CUDA Environment Variables"), with repeated entries and the
reading of numbers as ``torch.cuda._parse_visible_devices`` has them (read in torch 2.13.0): an entry that names no
device hides itself and all after it; a repeated one hides everything. Numbers are CUDA's order, which is "fastest
first" unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``: between several GPUs a number names none of them for certain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ongpu.domain.machine import Device, Machine

_NUMBER = re.compile(r"\s*\+?(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """The devices a program sees.

    ``certain`` is false where it depends on an order that is not known: ``devices`` then holds those that may
    be seen. ``reason`` says what decided.
    """

    devices: tuple[Device, ...]
    certain: bool
    reason: str


def visible_devices(machine: Machine) -> Visible:
    """Which of ``machine.devices`` a program under ``machine.variables`` sees, and how certain that is."""
    value = dict(machine.variables).get("CUDA_VISIBLE_DEVICES")
    if machine.cuda_visible is not None:
        listed = [_digits(uuid) for uuid in machine.cuda_visible]
        by_digits = {_digits(one.uuid): one for one in machine.devices if one.uuid}
        if all(uuid in by_digits for uuid in listed):
            under = "" if value is None else f" under CUDA_VISIBLE_DEVICES={value!r}"
            said = f"libcuda lists {len(listed) or 'none'} of {len(machine.devices)}{under}"
            return Visible(devices=tuple(by_digits[uuid] for uuid in listed), certain=True, reason=said)
    if value is None:
        return Visible(devices=machine.devices, certain=True, reason="CUDA_VISIBLE_DEVICES is not set")
    said = f"CUDA_VISIBLE_DEVICES={value!r}"
    first = value.split(",")[0].strip()
    if first.startswith("GPU-"):
        return Visible(devices=_by_prefix(value, machine.devices), certain=True, reason=said)
    split = tuple(one for one in machine.devices if one.mig)
    if first.startswith("MIG-"):
        # CUDA gives a process one part at most: the first that is named.
        named = tuple(one for one in split if one.uuid == first)
        unnamed = any((one.uuid or "").startswith("GPU-") for one in split)
        certain = bool(named) or not unnamed
        return Visible(devices=named or (split if unnamed else ()), certain=certain, reason=said)
    if split and first[:1].isdigit():
        return Visible(devices=machine.devices, certain=False, reason=f"{said} counts parts of a GPU split by MIG")
    return _by_number(value, machine, said)


def _by_prefix(value: str, devices: Sequence[Device]) -> tuple[Device, ...]:
    entries = [entry.strip() for entry in value.split(",")]
    found: list[Device] = []
    for entry in entries:
        matching = [one for one in devices if entry.startswith("GPU-") and (one.uuid or "").startswith(entry)]
        if len(matching) != 1:
            break
        if matching[0] in found:
            return ()
        found.append(matching[0])
    return tuple(found)


def _by_number(value: str, machine: Machine, said: str) -> Visible:
    devices = machine.devices
    numbers: list[int] = []
    for entry in value.split(","):
        read = _NUMBER.match(entry)
        if read is None or int(read[1]) >= len(devices):
            break
        if int(read[1]) in numbers:
            return Visible(devices=(), certain=True, reason=f"{said} repeats {read[1]}, which hides every GPU")
        numbers.append(int(read[1]))
    if not numbers:
        return Visible(devices=(), certain=True, reason=f"{said} hides every GPU")
    by_bus = dict(machine.variables).get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(devices) == 1 or by_bus:
        ordered = sorted(devices, key=lambda one: one.pci_bus_id or "") if by_bus else list(devices)
        known = len(devices) == 1 or all(one.pci_bus_id for one in devices)
        return Visible(devices=tuple(ordered[number] for number in numbers), certain=known, reason=said)
    if len(numbers) == len(devices):
        return Visible(devices=devices, certain=True, reason=f"{said} names all of them")
    return Visible(
        devices=devices,
        certain=False,
        reason=f"{said} counts in CUDA's own order, which is not known without CUDA_DEVICE_ORDER=PCI_BUS_ID",
    )


def _digits(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")

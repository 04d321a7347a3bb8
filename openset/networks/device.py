"""The device that a network runs on, decided in one place."""

from __future__ import annotations

import torch
from torch import nn


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, or by default the accelerator if there is one, else the CPU.

    Args:
        name: As torch names it: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`; None for the default.

    Raises:
        ValueError: If there is no such device on this machine.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return accelerator or torch.device("cpu")
    counts = {"cpu": 1}
    if accelerator is not None:
        counts[accelerator.type] = torch.accelerator.device_count()
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or (device.index or 0) >= counts.get(device.type, 0):
        there = [
            kind if kind == "cpu" else f"{kind}:{i}" for kind, n in counts.items() for i in range(n)
        ]
        raise ValueError(f"device {name} is not on this machine; there is {', '.join(there)}")
    return device


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of number that a module's parameters have; float32 if none is a float."""
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floats, torch.float32)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters; the CPU if it has none."""
    for parameter in module.parameters():
        return parameter.device
    return torch.device("cpu")

"""The device that models live on, and the precision in which they compute there."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from reverie import BadSetting


def usable_device(name: str | None) -> torch.device:
    """Return the device of this name; None takes an accelerator if there is one, else the processor.

    Raises:
        BadSetting: there is no such device here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # a device that cannot be used tells here why
    except (RuntimeError, AssertionError) as error:  # PyTorch raises either
        reason = next(iter(str(error).splitlines()), "no reason")
        raise BadSetting(
            f"device: wanted one that PyTorch can use here, got {name!r} ({reason}); choose cpu, or cuda where "
            f"PyTorch finds an accelerator"
        ) from error
    return device


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions run in "float32" or "bfloat16"."""
    if device.type == "meta":  # tensors without contents, from which only shapes are learned
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

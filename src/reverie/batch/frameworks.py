"""The way from a batch to a framework, which this room knows by name only.

A framework's room lies above this one and says how its batches are made. It is looked up when somebody asks for them,
as a plug-in is: whoever never does needs no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from reverie.errors import BadSetting


def as_tensors(batch: object, device: object) -> Any:
    """Return a batch in torch's tensors on a device, as `reverie.torch.to_device` makes it.

    Raises:
        BadSetting: PyTorch is not installed.
    """
    try:
        room = import_module("reverie.torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BadSetting(
            "torch: wanted PyTorch, got a Python without it; install it with: pip install 'reverie[torch]'"
        ) from error
    return room.to_device(batch, device)

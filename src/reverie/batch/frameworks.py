"""The way from a batch to a framework, which this room knows by name only.

A framework's room lies above this one and says how its batches are made. So does the room that draws pages. Each is
looked up when somebody asks for it, as a plug-in is: whoever never does needs no framework.
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


class Looked:
    """A batch that can be looked at; the room that draws pages says how."""

    __slots__ = ()

    def show(self, row: int = 0) -> Any:
        """Return one row to look at: in a notebook with its frames, elsewhere as a table of its steps.

        Raises:
            BadSetting: there is no such row.
        """
        return import_module("reverie.report").show(self, row)

    def _repr_html_(self) -> str:
        return str(import_module("reverie.report").html_of_batch(self))

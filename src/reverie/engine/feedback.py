"""What a learner gives back for a batch, checked before any of it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from reverie.batch import KEPT, Batch
from reverie.errors import BadSetting, SpecMismatch
from reverie.index import Ints
from reverie.samplers import Sampler
from reverie.spec import Field
from reverie.values import numeric_array


def sampler_of(batch: Batch) -> Sampler:
    """Return the sampler that drew a batch.

    Raises:
        BadSetting: it is not in this process any more.
    """
    sampler = None if batch.origin is None else batch.origin.sampler
    if not isinstance(sampler, Sampler):
        raise BadSetting(
            f"batch: wanted one whose sampler the buffer still knows, got a copy whose sampler was not drawn with for "
            f"long: the last {KEPT} are kept; keep the batch that sample() returned, or use fewer samplers"
        )
    return sampler


def checked_priorities(sampler: Sampler, batch: Batch, td_errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return one priority for each window of a batch, as its sampler makes them of TD errors.

    Raises:
        SpecMismatch: errors of another shape, or one that is not finite.
        BadSetting: the sampler keeps no priorities.
    """
    errors = numeric_array("td_errors", td_errors, form="{}")
    given = errors.shape
    mask = batch.train_mask if errors.ndim == 2 else np.ones((len(batch), 1), np.bool_)
    if errors.ndim == 1:
        errors = errors[:, None]
    if errors.shape != mask.shape:
        raise SpecMismatch(
            f"td_errors: wanted numbers of shape {batch.train_mask.shape} or ({len(batch)},), got "
            f"{errors.dtype} of shape {given}; pass one per step, or one per window"
        )
    priorities = sampler.window_priorities(errors, mask)
    if not (np.abs(priorities) <= np.finfo(np.float32).max).all():
        raise SpecMismatch(
            "td_errors: wanted finite float32 numbers, got NaN or infinity; find out where they came from"
        )
    return priorities


def checked_extras(
    extras: Mapping[str, Field], ids: Ints, values: Mapping[str, npt.ArrayLike]
) -> dict[str, Any]:
    """Return new values of extra fields, by column; ids are those of the steps, whose shape they must have.

    Raises:
        SpecMismatch: an unknown field, or a value that does not fit it.
    """
    checked = {}
    for name, value in values.items():
        if name not in extras:
            raise SpecMismatch(
                f"write_back: wanted one of the extra fields {sorted(extras)}, got {name!r}; "
                f"declare it in the spec's extras"
            )
        checked[f"extras/{name}"] = extras[name].validate(name, value, ids.shape)
    return checked

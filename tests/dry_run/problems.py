"""What several tests of dry_run train or compare: modules, data and functions."""

from __future__ import annotations

import io
import pickle
import types
import weakref
from typing import Any

import torch
from torch import nn


class Picture(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, torch.Generator):
            return bytes, (thing.get_state().numpy().tobytes(),)
        if isinstance(thing, weakref.ref):
            return int, (id(thing()),)
        if isinstance(thing, types.FunctionType):
            return str, (thing.__qualname__,)
        if isinstance(thing, nn.Module):  # torch refuses to pickle parametrized ones
            return types.SimpleNamespace, (), {"class": type(thing).__name__, **vars(thing)}
        return NotImplemented


def picture(thing: Any) -> bytes:
    """Pickle's picture of an object graph: contents, and which objects are the same."""
    file = io.BytesIO()
    Picture(file).dump(thing)
    return file.getvalue()

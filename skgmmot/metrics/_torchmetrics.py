"""The base class of metrics with a state: torchmetrics' own where it is installed."""

from importlib import import_module
from typing import Any

import torch


class StatefulMetric(torch.nn.Module):
    """What is needed of ``torchmetrics.Metric`` where that is not installed.

    States are tensors that are added to, move to a device with the module, and are pickled.
    Nothing is shared between processes.
    """

    def __init__(self):
        super().__init__()
        self._defaults = {}

    def add_state(self, name, default, dist_reduce_fx=None) -> None:
        """Add a state of some value; there is nothing to reduce."""
        self._defaults[name] = default
        setattr(self, name, default.clone())

    def reset(self) -> None:
        """Set the states to what they were at first."""
        for name, default in self._defaults.items():
            setattr(self, name, default.clone().to(getattr(self, name).device))

    def _apply(self, fn, recurse=True):
        # states move to another device, but keep their precision
        for name in self._defaults:
            state = getattr(self, name)
            setattr(self, name, state.to(fn(state.new_empty(1)).device))
        return super()._apply(fn, recurse)


try:
    Metric: Any = import_module("torchmetrics").Metric
except ImportError:
    Metric = StatefulMetric

"""What takes the place of torchmetrics' base class."""

import pickle

import torch

from skgmmot.metrics._torchmetrics import StatefulMetric


class Total(StatefulMetric):
    """The sum of numbers."""

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx=sum)


def test_states_are_reset_moved_and_pickled_in_their_precision():
    metric = Total()
    metric.total = metric.total + 3
    module = torch.nn.ModuleList([metric]).half()
    assert module[0].total.dtype == torch.float64 and pickle.loads(pickle.dumps(metric)).total == 3
    module.to("meta")
    assert metric.total.is_meta
    metric.reset()
    assert metric.total.is_meta
    other = Total()
    other.total += 1
    other.reset()
    assert other.total == 0

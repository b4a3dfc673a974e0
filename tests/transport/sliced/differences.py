"""Autograd against central differences."""

import torch


def differences(function, tensor, h=1e-5):
    """Central differences of a scalar function."""
    gradient = torch.zeros_like(tensor)
    for i in range(tensor.numel()):
        values = []
        for sign in (1, -1):
            moved = tensor.clone()
            moved.view(-1)[i] += sign * h
            values.append(function(moved))
        gradient.view(-1)[i] = (values[0] - values[1]) / (2 * h)
    return gradient


def check_derivatives(cost, inputs, rtol):
    """Compare autograd with central differences, in every input."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    found = torch.autograd.grad(cost(*leaves), leaves)
    for i, gradient in enumerate(found):

        def of_one(moved, i=i):
            return cost(*inputs[:i], moved, *inputs[i + 1 :])

        expected = differences(of_one, inputs[i])
        assert (gradient - expected).abs().max() < rtol * expected.abs().max(), i


def symmetric(covariances):
    """Perturbed matrices, symmetric again."""
    return (covariances + covariances.mT) / 2 if covariances.ndim == 3 else covariances

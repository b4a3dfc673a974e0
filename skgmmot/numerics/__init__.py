"""Equations and tensors, no Gaussians: algebra, fixed points, derivatives, blocks of rows."""

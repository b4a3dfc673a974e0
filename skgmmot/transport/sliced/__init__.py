"""Sliced Wasserstein distances."""

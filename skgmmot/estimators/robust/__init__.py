"""Mixtures with heavy tails."""

"""Optimal transport between weight vectors."""

"""Exact semi-discrete transport in three dimensions."""

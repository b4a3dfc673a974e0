"""Expectation-maximisation: one step, all rows, derivatives, whole fits."""

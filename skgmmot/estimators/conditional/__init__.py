"""Estimators that predict some features of a mixture from others."""

"""Estimators that fit a mixture to samples."""

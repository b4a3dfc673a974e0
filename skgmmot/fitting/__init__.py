"""Fits: mixtures by likelihood or by transport, and quantisation."""

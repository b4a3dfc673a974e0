"""Where fits of mixtures start, and what of a start stays."""

"""Semi-discrete transport of a part of a density."""

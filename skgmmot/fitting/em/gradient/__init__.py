"""The derivative of an iteration of EM over all samples, and movements that are none."""

"""The border: arrays and mixtures of users as tensors and values, and back."""

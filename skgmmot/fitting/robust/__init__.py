"""Fits that outliers do not spoil: uniform noise, and components with heavy tails."""

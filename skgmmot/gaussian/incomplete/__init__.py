"""Samples whose entries are missing at random: their patterns, and the E-steps that take them."""

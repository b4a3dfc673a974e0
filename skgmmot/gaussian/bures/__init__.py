"""Wasserstein distances between Gaussians: the Bures distance of covariances, and barycentres."""

"""One Gaussian and many, as values: covariance types, densities, Bures distances, barycentres."""

"""Choose a mixture: the number of components and the covariance type."""

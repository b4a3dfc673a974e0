"""Semi-discrete transport in a periodic box."""

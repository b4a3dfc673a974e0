"""An interior-point method for transport with penalties or entropy, on all pairs or on few."""

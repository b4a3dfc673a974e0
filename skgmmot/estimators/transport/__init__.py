"""Estimators over optimal transport: maps, geodesics, barycentres, embeddings, quantisation."""

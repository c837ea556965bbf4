"""Contracts: images, products, stages, registry, catalogue, tiling."""

"""The speed bench: how fast a Groma answers a RefCOCO-shaped workload, beside the way that shares nothing."""

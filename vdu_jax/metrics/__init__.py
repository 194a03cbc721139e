"""Metrics of unlearning: what is gone, and what is left. Pure functions of arrays."""

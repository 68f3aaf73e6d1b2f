"""Synthetic studies with known truth, drawn by our own code."""

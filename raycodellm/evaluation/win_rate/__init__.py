"""Compares two models on open instructions by a judge."""

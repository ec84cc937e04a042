"""Decides which documents of a source stay: filters, deduplication, and removal of evaluation items."""

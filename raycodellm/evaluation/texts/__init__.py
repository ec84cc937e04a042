"""The texts of items and of held-out documents, and items that stand in training data."""

"""Finds evaluation tasks by name, suite, file or folder, loads them, and says what identifies them."""

"""Finds and reads the data of tasks in a folder of copies, in the hub's cache or on the hub."""

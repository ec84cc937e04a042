"""The processes inside the sandbox: the process of the model's code, and the process of the checker.

The modules here use the standard library alone: nothing else of the package is on the file system that they see.
"""

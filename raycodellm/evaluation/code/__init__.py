"""Runs the programs that a model wrote in the sandbox, and scores them."""

"""The results of tasks, kept in part and whole, and put together to the evaluation of a model."""

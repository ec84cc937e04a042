"""Items, their scores, and the metrics made of them."""

"""Computes likelihoods and generates answers with a Hugging Face model."""

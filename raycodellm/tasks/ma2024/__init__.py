"""The tasks of Ma et al. (ICLR 2024) that lm-eval lacks, and the channel variants of those that it has."""

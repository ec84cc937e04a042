"""QuAC, the task of Aryabumi et al. (2024) that lm-eval lacks."""

"""The boxes task of Kim and Schuster (2023) and Kim, Schuster and Toshniwal (2024), by its complete rules."""

from raycodellm.tasks.kim2024.answers import process_results
from raycodellm.tasks.kim2024.dataset import dataset

__all__ = ["dataset", "process_results"]

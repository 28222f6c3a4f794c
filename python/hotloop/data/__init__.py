"""Datasets, batches and random splits, with PyTorch's names."""

from hotloop.data import datasets, transforms
from hotloop.data.dataset import (
    Dataset,
    Subset,
    TakesBatches,
    TensorDataset,
    random_split,
    stratified_split,
)
from hotloop.data.loader import DataLoader, default_collate

__all__ = [
    "DataLoader",
    "Dataset",
    "Subset",
    "TakesBatches",
    "TensorDataset",
    "datasets",
    "default_collate",
    "random_split",
    "stratified_split",
    "transforms",
]

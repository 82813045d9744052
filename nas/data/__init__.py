"""Data sets as tensors on the device: what is known before loading, splits, augmentation of whole batches.

Every set fits in memory as uint8 (MNIST: 47 MB), so it is loaded once, stays on the device, and a batch is
an index away: no loader workers. Search and training are handed a `TrainingData`, which has no test images;
`open_test` is the one function that opens the test split, and it records each opening.
"""

from __future__ import annotations

from nas.data.augmentation import Draws, apply_draws, augment, random_affine, random_colours, random_holes
from nas.data.catalog import DATASETS, find_dataset
from nas.data.dataset import Dataset, Normalization, Split, TrainingData, as_images
from nas.data.folder_options import FolderOptions, ImageProgress
from nas.data.image_check import ImageCheck, check_images
from nas.data.loading import data_root, load_training_data, own_source, prepare_dataset
from nas.data.own_images import own_options
from nas.data.own_listing import OwnFiles, own_files
from nas.data.pictures import square
from nas.data.splits import IMBALANCE, fold_number, imbalanced_counts, stratified_split, with_fold
from nas.data.test_split import open_test
from nas.data.torchvision_sets import fetch_torchvision, torchvision_path

__all__ = [
    "DATASETS",
    "IMBALANCE",
    "Dataset",
    "Draws",
    "FolderOptions",
    "ImageCheck",
    "ImageProgress",
    "Normalization",
    "OwnFiles",
    "Split",
    "TrainingData",
    "apply_draws",
    "as_images",
    "augment",
    "check_images",
    "data_root",
    "fetch_torchvision",
    "find_dataset",
    "fold_number",
    "imbalanced_counts",
    "load_training_data",
    "open_test",
    "own_files",
    "own_options",
    "own_source",
    "prepare_dataset",
    "random_affine",
    "random_colours",
    "random_holes",
    "square",
    "stratified_split",
    "torchvision_path",
    "with_fold",
]

"""Data sets: images as uint8 tensors, and the modules that make batches of them."""

from msngan.data.datamodules import ImageData, LabelledData
from msngan.data.datasets import DATASETS, Dataset, data_root, load
from msngan.data.images import Images
from msngan.data.pictures import DataError

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "ImageData",
    "Images",
    "LabelledData",
    "data_root",
    "load",
]

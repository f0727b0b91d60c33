"""DATASETS: name -> uint8 images. A new data set is one loader and one line here."""

from msngan.data.datamodule import ImageData
from msngan.data.datasets import DATASETS, DataError, Dataset, Images, data_root, load
from msngan.data.labelled import LabelledData

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

"""DATASETS: name -> uint8 images. A new data set is one loader and one line here."""

from msngan.data.datasets import DATASETS, DataError, Dataset, Images, data_root, load
from msngan.data.datamodule import ImageData

__all__ = ["DATASETS", "DataError", "Dataset", "ImageData", "Images", "data_root", "load"]

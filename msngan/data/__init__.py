"""DATASETS: name -> uint8 images. A new data set is one loader and one line here."""

from msngan.data.datamodule import ImageData
from msngan.data.datasets import DATASETS, DataError, Dataset, Images, data_root, load

__all__ = ["DATASETS", "DataError", "Dataset", "ImageData", "Images", "data_root", "load"]

"""Ultrasound DICOM files: generated ones, and real ones from pydicom and pydicom-data."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

SECRET = "Doe^Jane"


def real(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is in neither pydicom nor pydicom-data"
    return str(path)


def make(
    path: Path,
    frames: np.ndarray,
    photometric: str = "MONOCHROME2",
    syntax: UID = ExplicitVRLittleEndian,
    **tags: Any,
) -> str:
    """Writes `frames` [T, H, W] or [T, H, W, 3] to an uncompressed file of a named patient."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.PatientName = SECRET
    dataset.PatientID = "MRN0042"
    dataset.Modality = "US"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
    dataset.SamplesPerPixel = 1 if frames.ndim == 3 else frames.shape[3]
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    bits = frames.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    stored = frames if syntax.is_little_endian else frames.astype(frames.dtype.newbyteorder(">"))
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return str(path)


def as_jpeg(path: str, frames: np.ndarray) -> None:
    """Replaces the frames of a file, grey or RGB, by baseline JPEG, as most machines export."""
    dataset = pydicom.dcmread(path)
    pictures = frames if frames.ndim == 3 else frames[..., ::-1]
    coded = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    dataset.PixelData = encapsulate([c + b"\0" * (len(c) % 2) for c in coded])
    dataset.NumberOfFrames = len(frames)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset["PixelData"].is_undefined_length = True
    if frames.ndim == 4:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.save_as(path, enforce_file_format=True)


def region(x0: int, y0: int, x1: int, y1: int, data_type: int = 1, space: int = 1) -> Dataset:
    item = Dataset()
    item.RegionDataType, item.RegionSpatialFormat = data_type, space
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    return item

"""MONAI's image reader on SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.config import PathLike
from monai.data import ImageReader
from monai.data.image_reader import _copy_compatible_dict, _stack_images
from monai.data.utils import orientation_ras_lps
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from monai_infoaug._require import refusal

__all__ = ["SimpleITKReader"]

WITHOUT_MILLIMETRES = (".bmp", ".jpeg", ".jpg", ".png")
IMAGE_SUFFIXES = (*WITHOUT_MILLIMETRES, ".tif", ".tiff", ".dcm", ".mha", ".mhd", ".nii", ".nii.gz", ".nrrd")
_UNKNOWN = "[UNKNOWN_PRINT_CHARACTERISTICS]"  # what SimpleITK gives for metadata that are no text


class SimpleITKReader(ImageReader):
    """Read MHA, MHD, NRRD, NIfTI, PNG, JPEG, TIFF, BMP and DICOM, files or a folder with a DICOM series, in 2D and 3D.

    Arrays and metadata are those of MONAI's ``ITKReader``, which needs the package ``itk``: axis 0 is x, the components
    of a colour or vector image and the time of a 4D image are the last axis, and a list of files is stacked. For NIfTI
    they are also those of ``NibabelReader``, but for the affine of a 2D image, which has three rows.

    Args:
        channel_dim: axis of the channels, or "no_channel", for ``EnsureChannelFirst``. None: the last one if there are
            more axes than spatial ones.
        series_uid: DICOM series to read from a folder that has several.
        reverse_indexing: whether the array is in the order of NumPy, axis 0 last; this does not affect the metadata.
        series_meta: whether a DICOM series gets the tags of its first slice.
        affine_lps_to_ras: whether the affine is in RAS, like that of ``NibabelReader``; LPS otherwise.
        kwargs: further arguments of ``SimpleITK.ReadImage``, such as ``imageIO``.

    Example:
        >>> import tempfile
        >>> from monai.transforms import LoadImage
        >>> path = f"{tempfile.mkdtemp()}/volume.mha"
        >>> sitk.WriteImage(sitk.Image([5, 4, 3], sitk.sitkInt16), path)
        >>> volume = LoadImage(reader=SimpleITKReader())(path)
        >>> volume.shape, str(volume.meta["space"])
        (torch.Size([5, 4, 3]), 'RAS')
    """

    def __init__(
        self,
        channel_dim: str | int | None = None,
        series_uid: str | None = None,
        reverse_indexing: bool = False,
        series_meta: bool = False,
        affine_lps_to_ras: bool = True,
        **kwargs: Any,
    ) -> None:
        self.channel_dim = float("nan") if channel_dim == "no_channel" else channel_dim
        self.series_uid, self.series_meta = series_uid, series_meta
        self.reverse_indexing, self.affine_lps_to_ras = reverse_indexing, affine_lps_to_ras
        self.kwargs = kwargs

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether every file has the suffix of an image, or is a folder."""
        return all(str(f).lower().endswith(IMAGE_SUFFIXES) or Path(f).is_dir() for f in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> sitk.Image | list[sitk.Image]:
        """Read a file, a folder with a DICOM series, or a list of them.

        Args:
            data: path or paths.
            kwargs: arguments of ``SimpleITK.ReadImage``, before those of the constructor.

        Returns:
            The image, or the images if there are several paths.

        Raises:
            FileNotFoundError: for a path that does not exist, or a folder without DICOM files.
            ValueError: for a file that SimpleITK cannot read, or a folder with several series and no ``series_uid``,
                or without the one asked for.
        """
        images = [self._read(Path(path), **self.kwargs | kwargs) for path in ensure_tuple(data)]
        return images if len(images) > 1 else images[0]

    def get_data(self, img: sitk.Image | Sequence[sitk.Image]) -> tuple[np.ndarray, dict]:
        """Return the array and the metadata; of several images, their stacked arrays and the metadata of the first."""
        arrays: list[np.ndarray] = []
        shared: dict[str, Any] = {}
        for image in img if isinstance(img, Sequence) else [img]:
            array = sitk.GetArrayFromImage(image)
            if not self.reverse_indexing:
                array = array.T if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(array.T, 0, -1)
            header = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
            meta = {key: value for key, value in header.items() if not key.startswith("ITK_") and _UNKNOWN not in value}
            meta |= {"spacing": np.asarray(image.GetSpacing()), **self._geometry(image)}
            meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = self.channel_dim
            if self.channel_dim is None:
                meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = -1 if array.ndim > len(meta[MetaKeys.SPATIAL_SHAPE]) else np.nan
            _copy_compatible_dict(meta, shared)
            arrays.append(array)
        return _stack_images(arrays, shared), shared

    def _read(self, path: Path, **kwargs: Any) -> sitk.Image:
        if not path.exists():
            raise refusal("data", f"'{path}'", "an existing file or folder", FileNotFoundError)
        try:
            if not path.is_dir():
                return sitk.ReadImage(str(path), **kwargs)
            files = self._series(path)
            image = sitk.ReadImage(files[0] if len(files) == 1 else files, **kwargs)
            if self.series_meta:
                header = open_header(files[0])
                for key in header.GetMetaDataKeys():
                    image.SetMetaData(key, header.GetMetaData(key))
        except RuntimeError as error:
            raise unreadable(path, error) from error
        return image

    def _series(self, folder: Path) -> Sequence[str]:
        """Files of the DICOM series of a folder, in the order of their positions."""
        series = series_uids(folder)
        if len(series) == 0:
            raise refusal("data", f"'{folder}' without one", "a folder with DICOM files", FileNotFoundError)
        uid = self.series_uid or series[0]
        if uid not in series or (not self.series_uid and len(series) != 1):
            accepted = f"that of one of the series in '{folder}': {', '.join(series)}"
            raise refusal("series_uid", self.series_uid, accepted)
        return sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)

    def _geometry(self, image: sitk.Image) -> dict[str, Any]:
        """Affine and spatial shape, of three axes at most."""
        dims = min(image.GetDimension(), 3)
        direction = np.reshape(image.GetDirection(), [image.GetDimension()] * 2)[:dims, :dims]
        affine = np.eye(dims + 1)
        affine[:dims, :dims] = direction * image.GetSpacing()[:dims]
        affine[:dims, -1] = image.GetOrigin()[:dims]
        if self.affine_lps_to_ras:
            affine = orientation_ras_lps(affine)
        size = list(image.GetSize())
        if isinstance(self.channel_dim, int):
            size.pop(self.channel_dim)
        return {
            MetaKeys.ORIGINAL_AFFINE: affine,
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS if self.affine_lps_to_ras else SpaceKeys.LPS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(size[:dims]),
        }


def open_header(path: PathLike) -> sitk.ImageFileReader:
    """Reader that has read the header of a file, but no pixel."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path, error) from error
    return reader


def series_uids(folder: Path) -> Sequence[str]:
    """Unique identifiers of the DICOM series in a folder."""
    return sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))


def unreadable(path: PathLike, error: RuntimeError) -> ValueError:
    """SimpleITK's error of several lines as one that names the file."""
    reason = " ".join(str(error).rsplit("ERROR: ", 1)[-1].split())
    return ValueError(f"`data` must be an image that SimpleITK can read, got '{path}': {reason}")

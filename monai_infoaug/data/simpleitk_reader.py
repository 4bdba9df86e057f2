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

from monai_infoaug._require import WITHOUT_MILLIMETRES, is_count, is_one_of, refusal, require_truth, to_path
from monai_infoaug.data import _nifti
from monai_infoaug.data._dicom import Dicom, is_dicom, read_header, series_in
from monai_infoaug.data._dicom_volume import in_order, read_dicom
from monai_infoaug.data._images import affine_of, copy_metadata, require_utf_8, unreadable, warn
from monai_infoaug.data._pictures import is_picture, read_picture
from monai_infoaug.data._text_headers import require_nrrd_in_millimetres, require_whole_meta_image

__all__ = ["SimpleITKReader"]

IMAGE_SUFFIXES = (*WITHOUT_MILLIMETRES, ".dcm", ".ima", ".mha", ".mhd", ".nii", ".nii.gz", ".nrrd")
_UNKNOWN = "[UNKNOWN_PRINT_CHARACTERISTICS]"  # what SimpleITK gives for metadata that are no text


class SimpleITKReader(ImageReader):
    """Read MHA, MHD, NRRD, NIfTI, PNG, JPEG, TIFF, BMP and DICOM, files or a folder with a DICOM series, in 2D and 3D.

    Arrays and metadata are like those of MONAI's ``ITKReader``, which needs the package ``itk``: axis 0 is x, the
    components of a colour or vector image and the time of a 4D image are the last axis, and a list of files is stacked.

    A file is read right or refused by name; a Python warning says what had to be assumed about it:

    - NIfTI has the values and the affine of ``NibabelReader``, but for the affine of a 2D image, which has three rows,
      and headers in metres or micrometres, which become millimetres.
    - Pictures (PNG, JPEG, BMP, TIFF) carry no millimetres: their resolution is that of print, and a pixel counts as 1.
      Those whose colours are all equal have one channel, those in 1 bit are 0 and 1. Palettes give colours. An alpha
      channel is dropped if it is opaque, and refused otherwise.
    - A DICOM file of one slice is a plane. The slices of a series lie where they say; with a tilted gantry the affine
      is sheared. Values are rescaled, and MONOCHROME1 is turned so that high is bright.

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
        require_truth(reverse_indexing=reverse_indexing, series_meta=series_meta, affine_lps_to_ras=affine_lps_to_ras)
        if not (channel_dim is None or is_count(channel_dim, -4) or is_one_of(channel_dim, ("no_channel",))):
            raise refusal("channel_dim", repr(channel_dim), "the number of an axis, 'no_channel' or None")
        if series_uid is not None and not isinstance(series_uid, str):
            raise refusal("series_uid", repr(series_uid), "the UID of a series, or None")
        self.channel_dim = float("nan") if channel_dim == "no_channel" else channel_dim
        self.series_uid, self.series_meta = series_uid, series_meta
        self.reverse_indexing, self.affine_lps_to_ras = reverse_indexing, affine_lps_to_ras
        self.kwargs = kwargs

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether every file has the suffix of an image or is DICOM, or is a folder."""
        return all(has_image_suffix(f) or Path(f).is_dir() or is_dicom(Path(f)) for f in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> sitk.Image | list[Any]:
        """Read a file, a folder with a DICOM series, or a list of them.

        Args:
            data: path or paths. A tuple, as MONAI's ``LoadImage`` hands over: an error about a file waits for
                :py:meth:`get_data`, since ``LoadImage`` would let other readers take what is refused here.
            kwargs: arguments of ``SimpleITK.ReadImage``, before those of the constructor.

        Returns:
            The image, or the images if there are several paths.

        Raises:
            FileNotFoundError: for a path that does not exist, or a folder without DICOM files.
            ValueError: for a file that cannot be read or is broken, or a folder with several series and no
                ``series_uid``, or without the one asked for, or slices that make no volume.
        """
        paths = [to_path("data", path) for path in ensure_tuple(data)]
        if not paths:
            raise refusal("data", repr(data), "a path, or several")
        try:
            images = [self._read(path, **self.kwargs | kwargs) for path in paths]
        except ValueError as error:
            if isinstance(data, tuple) and self.verify_suffix(data):
                return [error]
            raise
        return images if len(images) > 1 else images[0]

    def get_data(self, img: sitk.Image | Sequence[sitk.Image]) -> tuple[np.ndarray, dict]:
        """Return the array and the metadata; of several images, their stacked arrays and the metadata of the first.

        Raises:
            ValueError: that :py:meth:`read` has kept back.
        """
        arrays: list[np.ndarray] = []
        shared: dict[str, Any] = {}
        for image in img if isinstance(img, Sequence) else [img]:
            if isinstance(image, ValueError):
                raise image
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
        require_utf_8(path)
        if not path.exists():
            raise refusal("data", f"'{path}'", "an existing file or folder", FileNotFoundError)
        try:
            image = self._image(path, **kwargs)
        except RuntimeError as error:
            raise unreadable(path, error) from error
        _warn_of_odd_values(image, path)
        return image

    def _image(self, path: Path, **kwargs: Any) -> sitk.Image:
        """Image in the way of its format."""
        if path.is_dir():
            headers = self.series(path)
            image = read_dicom(headers, **kwargs)
            return copy_metadata(open_header(headers[0].path), image) if self.series_meta else image
        if kwargs.get("imageIO"):
            return sitk.ReadImage(str(path), **kwargs)
        name = path.name.lower()
        if name.endswith(_nifti.SUFFIXES):
            image = _nifti.read_nifti(path)
            return sitk.Cast(image, kwargs["outputPixelType"]) if "outputPixelType" in kwargs else image
        with open(path, "rb") as file:
            head = file.read(4)
        if is_picture(head):
            return read_picture(path, **kwargs)
        if is_dicom(path):
            return read_dicom([read_header(path)], **kwargs)
        if name.endswith((".mha", ".mhd")):
            require_whole_meta_image(path)
        elif name.endswith((".nrrd", ".nhdr")):
            require_nrrd_in_millimetres(path)
        return sitk.ReadImage(str(path), **kwargs)

    def series(self, folder: Path) -> Sequence[Dicom]:
        """Headers of the slices of a folder's DICOM series, in their order."""
        series = series_in(folder)
        if len(series) == 0:
            raise refusal("data", f"'{folder}' without one", "a folder with DICOM files", FileNotFoundError)
        uid = self.series_uid or next(iter(series))
        if uid not in series or (not self.series_uid and len(series) != 1):
            accepted = f"that of one of the series in '{folder}': {', '.join(series)}"
            raise refusal("series_uid", self.series_uid, accepted)
        return in_order(series[uid])

    def _geometry(self, image: sitk.Image) -> dict[str, Any]:
        """Affine and spatial shape, of three axes at most."""
        affine = affine_of(image)
        dims = len(affine) - 1
        if self.affine_lps_to_ras:
            affine = orientation_ras_lps(affine)
        size = list(image.GetSize())
        if isinstance(self.channel_dim, int):
            if not -len(size) <= self.channel_dim < len(size):
                raise refusal("channel_dim", self.channel_dim, f"the number of one of {len(size)} axes")
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


def has_image_suffix(path: PathLike) -> bool:
    """Whether a name ends as one of an image does."""
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def _warn_of_odd_values(image: sitk.Image, path: Path) -> None:
    """Name a file whose values are not all finite: nothing later knows it."""
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind in "fc":
        with np.errstate(over="ignore", invalid="ignore"):
            total = values.sum()
        if not np.isfinite(total) and (count := values.size - np.isfinite(values).sum()):
            warn(path, f"has {count} values that are NaN or infinite")

"""Encoding a series of DICOM images that share most of their elements: each shared element is encoded once."""

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset, validate_file_meta
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

_PREAMBLE = b"\0" * 128 + b"DICM"
_PIXELS = Tag("PixelData")


class SeriesEncoder:
    """Turns images into Explicit VR Little Endian files, remembering the bytes of elements it has seen.

    Elements are told apart by identity, so images that shall be fast to encode must hold the same `DataElement`
    objects. Elements whose VR depends on others (US or SS) must have it set.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[DataElement, bytes]] = {}  # with the element, so that its id stays its own

    def encode(self, image: Dataset) -> bytes:
        """Return the bytes of a file that holds the image."""
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        validate_file_meta(meta)  # adds what says who wrote the file
        head = b"".join(self._bytes(element, None) for element in meta)
        length = DataElement(Tag("FileMetaInformationGroupLength"), "UL", len(head))
        encodings = convert_encodings(image.SpecificCharacterSet)
        body = b"".join(self._bytes(element, encodings) for element in image)
        return b"".join((_PREAMBLE, self._bytes(length, None), head, body))

    def _bytes(self, element: DataElement, encodings: list[str] | None) -> bytes:
        seen = self._known.get(id(element))
        if seen is not None:
            return seen[1]
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_data_element(stream, element, encodings)
        encoded = stream.getvalue()
        if element.tag != _PIXELS:  # every image has its own, and keeping them would keep the whole volume
            self._known[id(element)] = (element, encoded)
        return encoded

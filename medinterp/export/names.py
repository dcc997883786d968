"""Names of what a run writes: BIDS derivatives, built from the inputs' given names and never from their files'."""

import re
from collections.abc import Iterable

from medinterp.errors import ConfigError

GENERIC = "scan"
_LONGEST = 64
_LABEL = re.compile(r"[A-Za-z0-9+]+")
_STEM = re.compile(r"[A-Za-z0-9]+(?:[-_+][A-Za-z0-9+]+)*")
_BIDS = re.compile(r"(?P<stem>sub-[A-Za-z0-9+]+(?:_[a-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)")


def input_name(key: str | None, *, taken: Iterable[str] = ()) -> str:
    """Return the name of an input from the key the user gave it ("t1" in "t1=path"), or "scan", "scan2", ...

    Letters, digits, "-" and "_" are kept, so a BIDS name such as "sub-01_T1w" passes unchanged. A "_seg" or "_label"
    loses its underscore, because 3D Slicer opens files of such names as label maps. A file's own name must never be
    passed in: it may name the patient.

    Args:
        key: what the user wrote before the equals sign; None when nothing.
        taken: names of the other inputs, which are avoided by a number at the end.
    """
    kept = re.sub(r"[^A-Za-z0-9_-]+", "", key or "")
    kept = re.sub(r"[-_]+(?=seg|label)", "", kept, flags=re.IGNORECASE)
    kept = re.sub(r"([-_])[-_]+", r"\1", kept)[:_LONGEST].strip("-_") or GENERIC
    others, name, number = {t.lower() for t in taken}, kept, 2
    while name.lower() in others:  # case differs on no file system of a Mac or of Windows
        name, number = f"{kept}{number}", number + 1
    return name


def stem_and_suffix(name: str, modality: str) -> tuple[str, str]:
    """Split an input's name into stem and suffix: BIDS names have their own suffix, others take the modality.

    Example:
        >>> stem_and_suffix("sub-01_ses-2_T1w", "MR")
        ('sub-01_ses-2', 'T1w')
        >>> stem_and_suffix("t1", "MR")
        ('t1', 'MR')
    """
    match = _BIDS.fullmatch(name)
    return (match["stem"], match["suffix"]) if match else (name, modality)


def bids_name(stem: str, *, desc: str, suffix: str, space: str | None = None, extension: str = ".nii.gz") -> str:
    """Return the name of a derivative: entities of the input, then space, then desc, then suffix.

    Example:
        >>> bids_name("sub-x", desc="denoised", suffix="T1w")
        'sub-x_desc-denoised_T1w.nii.gz'

    Raises:
        ConfigError: a part holds characters that BIDS does not allow there.
    """
    if not _STEM.fullmatch(stem):
        raise ConfigError(f"'{stem}' cannot begin a file name: expected letters and digits joined by '-' or '_'")
    for what, text in (("desc", desc), ("suffix", suffix), ("space", space)):
        if text is not None and not _LABEL.fullmatch(text):
            raise ConfigError(f"{what} '{text}' of a BIDS name: expected letters and digits only")
    middle = "" if space is None else f"_space-{space}"
    return f"{stem}{middle}_desc-{desc}_{suffix}{extension}"

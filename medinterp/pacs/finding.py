"""Finding objects: studies, then their series, then their instances, each answer checked against what was asked."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from medinterp.errors import ObjectRefused, TransferError
from medinterp.pacs.archive import Archive, Level, StoredObject, connect
from medinterp.pacs.attributes import KEYWORDS, UNIQUE, matches
from medinterp.pacs.backoff import Backoff
from medinterp.pacs.quiet import quiet
from medinterp.pacs.servers import Server

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundSeries:
    """One series of an archive.

    Args:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        modality: as the archive says it.
        objects: how many of its objects match.
    """

    study_uid: str
    series_uid: str
    modality: str
    objects: int


def list_series(server: Server, filters: Mapping[str, str], *, backoff: Backoff | None = None) -> list[FoundSeries]:
    """Return the series that hold objects that match, and how many.

    Args:
        server: to ask.
        filters: from ``parse_filters``.
        backoff: how often to try again.

    Raises:
        TransferError: the archive could not be searched.
    """
    with quiet(), connect(server) as archive:
        objects = (backoff or Backoff()).run(lambda _: find_objects(archive, filters))
    counts: dict[tuple[str, str, str], int] = {}
    for one in objects:
        key = (one.study_uid, one.series_uid, one.modality)
        counts[key] = counts.get(key, 0) + 1
    return [FoundSeries(*key, objects=count) for key, count in counts.items()]


def find_objects(archive: Archive, filters: Mapping[str, str]) -> tuple[StoredObject, ...]:
    """Return every object that matches, in an order that is the same in every run.

    Args:
        archive: to search.
        filters: values by keyword, each used at the level it belongs to.

    Raises:
        TransferError: the archive refuses the query, or does not return an attribute that was asked for, so that what
            it found cannot be checked.
    """
    found = []
    try:
        for study in _matching(archive, Level.study, filters, {}):
            parents = {"StudyInstanceUID": study["StudyInstanceUID"]}
            for series in _matching(archive, Level.series, filters, parents):
                above = {**parents, "SeriesInstanceUID": series["SeriesInstanceUID"]}
                found += [
                    _stored({**series, **image, **above}) for image in _matching(archive, Level.image, filters, above)
                ]
    except ObjectRefused as error:
        raise TransferError(f"the archive does not answer the query: {error}") from None
    return tuple(sorted(set(found), key=lambda one: (one.study_uid, one.series_uid, one.sop_uid)))


def _stored(found: Mapping[str, str]) -> StoredObject:
    uids = (found["StudyInstanceUID"], found["SeriesInstanceUID"], found["SOPInstanceUID"])
    return StoredObject(*uids, sop_class=found.get("SOPClassUID", ""), modality=found.get("Modality", ""))


_ALSO: Mapping[Level, tuple[str, ...]] = {Level.study: (), Level.series: ("Modality",), Level.image: ("SOPClassUID",)}


def _matching(
    archive: Archive, level: Level, filters: Mapping[str, str], parents: Mapping[str, str]
) -> Iterator[Mapping[str, str]]:
    """Yield what matches at a level; an archive that ignores a filter it does not know returns too much."""
    own = {keyword: filters[keyword] for keyword in KEYWORDS[level] if keyword in filters}
    dropped = 0
    for one in archive.search(level, {**parents, **own}, _ALSO[level]):
        absent = sorted(keyword for keyword in own if keyword not in one)
        if absent:
            raise TransferError(
                f"the archive does not return {', '.join(absent)}, so its answer cannot be checked; drop that filter"
            )
        if not one.get(UNIQUE[level]):
            raise TransferError(f"the archive found something and does not return its {UNIQUE[level]}")
        asked = {**own, **{keyword: uid for keyword, uid in parents.items() if one.get(keyword)}}
        if all(matches(keyword, wanted, one[keyword]) for keyword, wanted in asked.items()):
            yield one
        else:
            dropped += 1
    if dropped:
        logger.warning("the archive returned %d answers that do not match the filters; they are left out", dropped)

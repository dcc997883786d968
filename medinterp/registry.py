"""Named parts from entry points: our own and plugins', listed without importing them, loaded on first use."""

from collections import defaultdict
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from medinterp.errors import PluginError

GROUPS = ("readers", "denoisers", "fusers", "attributors", "targets", "writers")


def _entries(group: str) -> dict[str, EntryPoint]:
    if group not in GROUPS:
        raise PluginError(f"no plugin group '{group}'; the groups are {', '.join(GROUPS)}")
    claims: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in _declared(f"medinterp.{group}"):
        if entry.value not in {known.value for known in claims[entry.name]}:  # one package seen twice on the path
            claims[entry.name].append(entry)
    for name, found in claims.items():
        if len(found) > 1:
            owners = " and ".join(sorted(f"{entry.value}" for entry in found))
            raise PluginError(f"two packages claim the {group[:-1]} '{name}': {owners}; uninstall one of them")
    return {name: found[0] for name, found in sorted(claims.items())}


@cache
def _declared(group: str) -> EntryPoints:
    """Return what the installed packages declare; to read it takes 25 ms, and what is installed later is not seen."""
    return entry_points(group=group)


def names(group: str) -> tuple[str, ...]:
    """Return the names registered in a group, without importing any of them."""
    return tuple(_entries(group))


def load(group: str, name: str) -> Any:
    """Import and return the object registered under a name.

    Raises:
        PluginError: the name is unknown, claimed twice, or its module cannot be imported.
    """
    entries = _entries(group)
    if name not in entries:
        known = ", ".join(entries) or "none (is medinterp installed, not just on the path?)"
        raise PluginError(f"no {group[:-1]} named '{name}'; known are: {known}")
    try:
        return entries[name].load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"the {group[:-1]} '{name}' ({entries[name].value}) cannot be loaded: {error}") from error


def provider_packages() -> frozenset[str]:
    """Return the top-level packages that declare a medinterp entry point: those a bundle may name classes of."""
    found = {entry.value.split(":")[0].split(".")[0] for group in GROUPS for entry in _entries(group).values()}
    return frozenset(found | {"medinterp"})

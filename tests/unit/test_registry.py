"""The plug-in registry: names without imports, and clear refusals."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from medinterp import registry
from medinterp.errors import PluginError


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_registered_name_loads(group: str) -> None:
    for name in registry.names(group):
        assert callable(registry.load(group, name))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PluginError, match="saliency"):
        registry.load("attributors", "crystal_ball")


def test_two_packages_with_one_name_are_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [EntryPoint("same", f"{owner}.maps:Same", "medinterp.attributors") for owner in ("alpha", "beta")]
    monkeypatch.setattr(registry, "_declared", lambda group: EntryPoints(claims))
    with pytest.raises(PluginError, match=r"alpha.maps:Same and beta.maps:Same"):
        registry.names("attributors")


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_package_anywhere:Thing", "medinterp.attributors")
    monkeypatch.setattr(registry, "_declared", lambda group: EntryPoints([broken]))
    with pytest.raises(PluginError, match="no_such_package_anywhere"):
        registry.load("attributors", "broken")

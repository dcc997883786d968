"""The report stands alone, tells no names, reads well to people and machines, and says what failed."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medinterp.errors import GridMismatch, OutputError
from medinterp.export.method_words import method_words
from medinterp.export.overlay import default_threshold, make_overlay, search_clusters
from medinterp.export.privacy import LEFT_OUT, without_paths
from medinterp.export.report import (
    Check,
    ExplainedMap,
    ExplanationSection,
    InputSection,
    ReportContext,
    render_report,
    write_report,
)
from medinterp.export.words import number, plain_text, quantity, record_tables
from medinterp.volume import Grid, Provenance, Source, Step, Volume, sphere

PATIENT_FILE = Path("/archive/DOE_JANE/19700101/brain_doe.nii.gz")
AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])
SHAPE = (16, 14, 6)
MINUS, TIMES = "\u2212", "\u00d7"
VOID = {"meta", "link", "img", "input", "br", "hr"}


def scan() -> Volume:
    voxels = np.random.default_rng(0).normal(100, 5, (1, *SHAPE)).astype(np.float32)
    source = Source("nifti", sha256="ab" * 32, paths=(PATIENT_FILE,))
    return Volume(voxels, Grid(SHAPE, AFFINE), "a.u.", "MR", Provenance(source))


def input_section(name: str = "t1") -> InputSection:
    noisy = scan()
    denoised = noisy.derive(np.full_like(noisy.voxels, 100.0), Step("denoise"))
    removed = noisy.derive(noisy.voxels - denoised.voxels, Step("subtract"))
    return InputSection(name, noisy, denoised, removed, 5.02, 4.9, 5.1, "gaussian", "finest wavelet detail")


def explanation(map_values: np.ndarray, *checks: Check, name: str = "t1") -> ExplanationSection:
    base = scan()
    map = base.derive(map_values[None].astype(np.float32), Step("explain"), unit="1")
    clusters = search_clusters(map, threshold=default_threshold(map))
    overlay = make_overlay(base, map, name="saliency", description="A test.", signed=True, clusters=clusters)
    maps = (ExplainedMap(name, overlay, clusters, sphere(base.grid, (8.0, 7.0, 5.0), 3.0)),)
    return ExplanationSection("mean of sphere", "saliency", "a.u.", 101.25, 99.75, maps, checks)


def blob() -> np.ndarray:
    values = np.zeros(SHAPE)
    values[7:10, 6:9, 2:4], values[3, 3, 1] = 1e-3, -5e-3
    return values


PASSED = Check("Completeness residual", "3e-7", "at most 1e-5", True, "What is left over.")
FAILED = Check("Halo error", "2e-3", "at most 1e-4", False, "What a crop loses.")


@pytest.fixture(scope="module")
def page() -> str:
    run = {
        "seed": 7,
        "command": f"medinterp run t1={PATIENT_FILE}",
        "note": f"read {PATIENT_FILE.name}",
        "parameters": {"mask": "/archive/DOE_JANE/lesion.nii.gz", "steps": 1},
        "versions": {"torch": "2.13.0"},
    }
    context = ReportContext("One scan was cleaned.", (input_section(),), (explanation(blob(), PASSED, FAILED),), run)
    return render_report(replace(context, notes=("Trained on T1 only.",)))


class Outline(HTMLParser):
    """Collects tags with attributes and the text inside each kind of tag, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_asks_nothing_of_a_network(page):
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", page)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link|<iframe|<object|srcset", without_pictures)
    outline = Outline(page)
    assert all(str(a["src"]).startswith("data:image/png;base64,") for a in outline.attributes("img"))
    assert all(str(a["href"]).startswith("#") for a in outline.attributes("a"))
    assert all("src" not in a for a in outline.attributes("script"))


def test_the_page_forbids_itself_every_request_and_every_other_script(page):
    (policy,) = [a["content"] for a in Outline(page).attributes("meta") if a.get("http-equiv")]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_no_path_of_an_input_reaches_the_page(page):
    assert "DOE" not in page
    assert "brain_doe" not in page
    assert "archive" not in page
    assert LEFT_OUT in page
    assert "ab" * 32 in page  # the hash of the bytes is what identifies an input


def test_names_given_by_the_user_are_text_and_never_markup():
    evil = "<script>alert(1)</script>"
    section = replace(input_section(evil), notes=(evil,), rows=((evil, evil),))
    html = render_report(ReportContext(evil, (section,), (), {evil: {evil: evil}}, (evil,), evil))
    assert "<script>alert" not in html
    assert html.count("<script>") == 1


def test_headings_descend_without_gaps_and_the_page_names_its_language(page):
    outline = Outline(page)
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert outline.attributes("html") == [{"lang": "en"}]
    assert outline.open == []


def test_every_picture_has_words_and_every_header_cell_a_scope(page):
    outline = Outline(page)
    assert len(outline.attributes("img")) == 6  # before, after, comparison; peak, close-up, slices
    assert all(len(str(a["alt"])) > 15 and a["width"] and a["height"] for a in outline.attributes("img"))
    assert all(a.get("scope") in ("row", "col") for a in outline.attributes("th"))
    identifiers = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))


def test_the_page_says_research_use_only_first(page):
    body = page[page.index("<body>") :]
    assert body.index("Research use only. Not for diagnosis.") < body.index("<h1>")


def test_the_page_states_the_figures_with_their_units(page):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for words in (
        "5.020 a.u.",
        "4.900 to 5.100 a.u.",
        "gaussian",
        f"16 {TIMES} 14 {TIMES} 6 voxels",
        f"1.000 {TIMES} 1.000 {TIMES} 2.500 mm",
    ):
        assert words in text
    for words in ("101.2 a.u.", "99.75 a.u.", f"{MINUS}1.500 a.u.", "R 3.0, A 3.0, S 2.5 mm"):
        assert words in text
    assert "What this map says" in text
    assert "What it does not say" in text


def test_a_failed_check_is_said_in_words_at_the_top_and_in_its_row(page):
    top = page[: page.index("<main>")]
    assert "1 of 2 passed" in top
    assert "1 failed" in top
    row = page[page.index("Halo error") :]
    assert "fail" in row[: row.index("</tr>")]


def test_clusters_left_out_are_counted():
    values = np.zeros(SHAPE)
    values[::2, ::2, ::2] = 1.0
    found = values.astype(bool).sum()
    html = render_report(ReportContext("A scan.", (), (explanation(values),)))
    assert f"The 30 strongest of {found}; {found - 30} weaker ones are left out." in re.sub(r"\s+", " ", html)


def test_a_map_of_zeros_is_reported_without_pictures():
    html = render_report(ReportContext("A scan.", (), (explanation(np.zeros(SHAPE)),)))
    assert "zero everywhere" in html
    assert "<img" not in html


def test_the_same_context_gives_the_same_bytes():
    context = ReportContext("A scan.", (), (explanation(blob(), PASSED),), {"seed": 7})
    assert render_report(context) == render_report(context)


def test_one_measurement_explained_by_two_methods_is_one_figure_at_the_top():
    one = explanation(np.zeros(SHAPE))
    context = ReportContext("A scan.", (), (one, replace(one, method="integrated_gradients")))
    assert list(context.measured.values()) == ["saliency, integrated gradients"]


def test_a_region_on_another_grid_is_refused():
    (explained,) = explanation(blob()).maps
    with pytest.raises(GridMismatch, match="region"):
        replace(explained, region=sphere(Grid(SHAPE, np.eye(4)), (8.0, 7.0, 3.0), 3.0))


def test_a_report_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    def full(self: Path, text: str, encoding: str) -> int:
        self.write_bytes(text[:10].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        write_report(ReportContext("A scan.", ()), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("read /data/x.nii.gz twice", f"read {LEFT_OUT} twice"),
        ("t1=~/scans/a", f"t1={LEFT_OUT}"),
        (r"C:\scans\a.nii", LEFT_OUT),
        ("mask=roi/lesion.nii.gz,mean", f"mask={LEFT_OUT},mean"),
        ("a.u./mm", "a.u./mm"),
        ("mean (a.u./a.u.)", "mean (a.u./a.u.)"),
        ("3 / 4", "3 / 4"),
        ("sub-x_desc-denoised_T1w.nii.gz", "sub-x_desc-denoised_T1w.nii.gz"),
    ],
)
def test_paths_are_left_out_and_fractions_are_not(text, shown):
    assert without_paths(text) == shown
    assert without_paths({"a": [text, Path("x")]}) == {"a": [shown, LEFT_OUT]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (3281.0, "3281"),
        (16.04, "16.04"),
        (16.5, "16.50"),
        (12345.6, "12346"),
        (-0.0123, f"{MINUS}0.01230"),
        (3.14e-7, f"3.140\u00a0{TIMES}\u00a010⁻⁷"),
        (-2.5e9, f"{MINUS}2.500\u00a0{TIMES}\u00a010⁹"),
        (float("nan"), "not available"),
        (float("-inf"), f"{MINUS}∞"),
    ],
)
def test_numbers_are_written_for_people(value, text):
    assert number(value) == text


def test_a_pure_number_has_no_unit():
    assert quantity(0.5, "1", 2) == "0.50"
    assert quantity(0.5, "HU", 2) == "0.50\u00a0HU"


def test_a_nested_record_becomes_captioned_tables():
    tables = record_tables({"seed": 7, "schedule": {"steps": 1, "from": {"sigma": 0.5}}, "gpu": None})
    assert tables == (
        ("Run", (("Seed", "7"), ("Gpu", "none"))),
        ("Schedule", (("Steps", "1"), ("From · sigma", "0.500000"))),
    )


def test_long_lists_are_cut_and_say_so():
    assert plain_text(list(range(100))).endswith("11, … (100 in all)")


def test_a_method_of_a_plugin_has_words_too():
    words = method_words("my_own_method")
    assert words.title == "My own method"
    assert "does not show disease" in words.says_not

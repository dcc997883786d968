"""The worked example of influence in the docs runs as it is written, and ranks the scans it names."""

import re
from pathlib import Path

import pytest

from tests.integration.scans import write_scan

_PAGE = Path(__file__).parents[2] / "docs" / "attribution.md"


def test_the_worked_example_of_influence_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = _PAGE.read_text(encoding="utf-8").split("## Influence of training scans")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    for seed, name in enumerate(("first", "second", "scan")):
        write_scan(tmp_path / f"{name}.nii.gz", shape=(16, 16, 16), seed=seed)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(_PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["site A, case 1", "site A, case 2"]
    sizes = [abs(float(line.split(": ")[1].split(",")[0])) for line in lines]
    assert sizes[0] >= sizes[1] > 0

"""The command line's options: declared once, shared by the commands, and passed on as they were given."""

import re
from collections import Counter
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medinterp import cli_options
from medinterp.cli import _parse_inputs, app
from medinterp.cli_options import Computing, Explaining, Reading, Sampling, chosen_options
from medinterp.errors import InputError
from medinterp.options import RunOptions

SHARED = ("--bundle", "--seed", "--device", "--max-memory", "--series", "--use", "--overwrite", "--progress", "--debug",
          "--deidentify")  # fmt: skip


@pytest.mark.parametrize("command", ["run", "denoise", "explain"])
def test_the_commands_share_their_options(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown)  # colours, where the terminal has them
    assert [option for option in SHARED if option not in text] == []
    assert ("--sampler" in text) == (command != "explain")
    assert ("--target" in text) == (command != "denoise")


def test_every_option_is_declared_once() -> None:
    declared = re.findall(r'"(--[a-z-]+)"', Path(cli_options.__file__).read_text(encoding="utf-8"))
    assert declared
    assert [option for option, count in Counter(declared).items() if count > 1] == []


def test_what_is_not_given_keeps_the_default() -> None:
    assert RunOptions(**chosen_options(Explaining(), Sampling(), Reading(), Computing())) == RunOptions()


def test_what_is_given_arrives() -> None:
    given = chosen_options(Explaining(targets=["auto", "voxel:1,2,3"], halo=0), Computing(seed=5), resample=True)
    options = RunOptions(**given)
    assert (options.targets, options.halo, options.seed, options.resample) == (("auto", "voxel:1,2,3"), 0, 5, True)


def test_a_group_becomes_one_option_a_field() -> None:
    seen: list[Sampling] = []
    tiny = typer.Typer()

    @tiny.command()
    @cli_options.with_option_groups
    def go(word: str, sampling: Sampling) -> None:
        seen.append(sampling)

    done = CliRunner().invoke(tiny, ["x", "--sampler", "ode", "--steps", "4"])
    assert done.exit_code == 0, done.output
    assert seen == [Sampling("ode", 4)]


def test_inputs_are_named_by_the_text_before_the_equals_sign(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.nii"
    odd.touch()
    assert _parse_inputs(["x.nii"]) == {"scan": Path("x.nii")}
    assert _parse_inputs(["x.nii", "y.nii"]) == {"scan1": Path("x.nii"), "scan2": Path("y.nii")}
    assert _parse_inputs(["t1=x.nii", "sub-01_T2w=y=z.nii"]) == {"t1": Path("x.nii"), "sub-01_T2w": Path("y=z.nii")}
    assert _parse_inputs([str(odd)]) == {"scan": odd}


@pytest.mark.parametrize(
    ("texts", "words"), [(["t1=a", "t1=b"], "two inputs are named 't1'"), (["t1="], "empty path"), ([""], "empty path")]
)
def test_unclear_inputs_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _parse_inputs(texts)

"""The commands that measure medinterp on a benchmark of the literature: bench brainweb."""

from pathlib import Path
from typing import Annotated

import typer

from medinterp.cli_errors import readable_errors
from medinterp.cli_options import Showing, with_option_groups
from medinterp.cli_process import heavy_import
from medinterp.cli_progress import shown_progress

bench = typer.Typer(help="Measure a denoiser by the protocol of a published benchmark.", no_args_is_help=True)


@bench.callback()
def _benchmarks() -> None:
    """Measure a denoiser by the protocol of a published benchmark."""


@bench.command()
@with_option_groups
def brainweb(
    showing: Showing,
    t1: Annotated[Path, typer.Option("--t1", help="t1_icbm_normal_1mm_pn0_rf0 of BrainWeb, as .rawb or NIfTI.")],
    bundle: Annotated[str, typer.Option(help="Bundle name or folder.")] = "mri_denoise",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """Denoise the BrainWeb T1 phantom at five noise levels, and print ours beside what was published."""
    with readable_errors(debug=showing.debug):
        with heavy_import():
            from medinterp.brainweb import bench_brainweb

        with shown_progress(showing.progress) as on_step:
            verdict = bench_brainweb(t1, bundle=bundle, seed=seed, on_step=on_step)
        typer.echo(verdict.describe())

"""``python -m benchmarks``: every table, on the scans below MEDINTERP_REAL_DATA or on a synthetic head without it."""

from benchmarks import (
    answer,
    attribution,
    cost,
    denoising,
    fusion,
    localisation,
    plans,
    preflight,
    scans,
    sigma,
)

SIGMA_SCANS = ("colin27_T1w", "adult_T1w_brain", "eun_T1w_brain", "clinical_FLAIR", "stroke_T1", "stroke_T2")
DENOISING_SCANS = ("colin27_T1w",)


def main() -> None:
    """Write docs/benchmarks.md anew, table by table."""
    for path in scans.named_scans(DENOISING_SCANS):
        for noise in ("0.03", "0.09"):
            denoising.main(["--scan", str(path), "--noise", noise])
    cost.main()
    answer.main()
    plans.main()
    preflight.main()
    attribution.main()
    localisation.main()
    fusion.main([])
    sigma.main([str(path) for path in scans.named_scans(SIGMA_SCANS)])


if __name__ == "__main__":
    main()

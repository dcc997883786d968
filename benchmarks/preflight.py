"""``python -m benchmarks.preflight``: every method on every network, what the preflight says and whether it holds."""

import sys

from benchmarks.report import table, versions, write_section
from medinterp.attribution import METHODS, preflight
from medinterp.testing.monai_networks import NetworkCase, network_cases
from medinterp.testing.preflight_check import RULES_IN_CAPTUM, VerdictCheck

SHORT = {"valid": "valid", "equal": "=", "refused": "no"}
"""How a verdict is written in the table."""


def judge(case: NetworkCase) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the verdict of each method in short, what Captum alone does, and every verdict that does not hold."""
    inputs, sigmas = case.scan()
    found, check = preflight(case, inputs, sigmas), VerdictCheck(case)
    cells, alone, wrong = {}, {}, []
    for method, verdict in found.verdicts.items():
        advice = f" {verdict.instead}" if verdict.instead is not None else ""
        cells[method] = SHORT[verdict.status] + (f", use{advice}" if verdict.status == "refused" else advice)
        problem = check.contradiction(verdict)
        if problem is not None:
            wrong.append(f"{case.name}, {method}: {problem}")
        if method in RULES_IN_CAPTUM:
            alone[method] = check.captum_alone(method)
    return cells, alone, wrong


def main() -> None:
    """Judge all networks, write the tables, and end with an error if a verdict does not hold."""
    columns: dict[str, dict[str, str]] = {}
    captum: dict[str, dict[str, str]] = {}
    wrong: list[str] = []
    for case in network_cases():
        columns[case.name], captum[case.name], problems = judge(case)
        wrong += problems
        print(case.name, problems or "every verdict holds")
    verdicts = [[method, *(columns[name][method] for name in columns)] for method in METHODS]
    alone = [[method, *(captum[name][method] for name in captum)] for method in RULES_IN_CAPTUM]
    silent = sum(cell.startswith("silently") or "undefined" in cell for row in alone for cell in row[1:])
    silent_here = sum("but it is the map of" in problem for problem in wrong)
    cells = len(verdicts) * len(columns)
    text = "\n".join(
        [
            "## Which method is valid on which network",
            "",
            "`python -m benchmarks.preflight`",
            "",
            f"Small instances with random weights; each of the {cells} verdicts was checked by running the method: "
            f"{len(wrong)} do not hold, and {silent_here} methods called valid are silent no-ops. *=*: the map "
            "would be that of the other method. *no*: refused, with the "
            "method to use instead. Verdicts about kernel_shap hold for LIME too.",
            "",
            table(["method", *columns], verdicts),
            "",
            f"The same rules, with Captum called directly on the network: {silent} of {len(alone) * len(captum)} calls "
            "return a map that is not the method's, without a word.",
            "",
            table(["method", *captum], alone),
            "",
            versions("torch", "monai", "captum"),
        ]
    )
    write_section("preflight", text)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()

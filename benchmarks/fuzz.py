"""``python -m benchmarks.fuzz``: thousands of damaged headers a format, each read in a child process with limits.

Needs Linux or macOS. With the extra ``fuzz`` (atheris, Linux) what is tried follows what the readers' code does with
it; without, damage is drawn by a seed alone. Exits with 1 when a reader failed on anything.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.report import PAGE, table, versions, write_section

CPU_S, MEMORY_BYTES, WALL_S = 10, 1 << 30, 120
MOST_CHILDREN = 50
HEAD = ("format", "headers", "read", "refused", "findings", "slowest, s CPU", "peak, MB", "engine")
SECURITY = PAGE.with_name("security.md")
ENGINES = ("atheris", "seeded")
Report = Callable[[str, str], None]


@dataclass
class Tally:
    """What became of the headers of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)
    slowest_s: float = 0.0
    peak_mb: float = 0.0

    def add(self, outcome: str, detail: str) -> None:
        """Count one case; findings that end in the same line are shown once."""
        self.outcomes[outcome] += 1
        if outcome == "finding":
            self.findings.setdefault(detail.strip().splitlines()[-1][:200], detail)

    @property
    def count(self) -> int:
        return self.outcomes.total()


def main(arguments: list[str] | None = None) -> None:
    """Fuzz the formats asked for, print the table and write it to docs/security.md."""
    from medinterp.testing.hostile_files import readable_formats

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="headers a format")
    parser.add_argument("--format", action="append", choices=readable_formats(), help="repeatable; default: all")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[find_spec("atheris") is None])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    failed = False
    for name in chosen.format or readable_formats():
        tally = fuzz(name, chosen.count, chosen.engine, chosen.seed)
        counts = [str(tally.outcomes[outcome]) for outcome in ("read", "refused", "finding")]
        row = [name, str(tally.count), *counts, f"{tally.slowest_s:.2f}", f"{tally.peak_mb:.0f}", chosen.engine]
        print(json.dumps(dict(zip(HEAD, row, strict=True))), flush=True)
        for detail in tally.findings.values():
            print(detail, file=sys.stderr)
        failed |= bool(tally.findings)
        _write(row, chosen.engine)
    sys.exit(int(failed))


def fuzz(name: str, count: int, engine: str, seed: int) -> Tally:
    """Try so many headers; a child that dies or hangs is a finding, and the next one goes on behind it."""
    tally = Tally()
    for _ in range(MOST_CHILDREN):
        before = tally.count
        corpus = tempfile.TemporaryDirectory()
        mine, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
        child = multiprocessing.get_context("spawn").Process(
            target=_work, args=(theirs, corpus.name, name, seed, (before, count), engine)
        )
        child.start()
        theirs.close()
        hung = _collect(mine, tally, count)
        if hung:
            child.kill()
        child.join()
        mine.close()
        corpus.cleanup()
        if tally.count >= count:
            break
        why = f"no answer within {WALL_S} s" if hung else f"the child ended with code {child.exitcode}"
        tally.add("finding", f"{name}, case {tally.count} of seed {seed}: {why}")
    return tally


def _collect(pipe: Connection, tally: Tally, count: int) -> bool:
    """Count what a child reports until it ends; True when it hangs."""
    while tally.count < count:
        if not pipe.poll(WALL_S):
            return True
        try:
            outcome, detail, seconds, peak_mb = pipe.recv()
        except EOFError:
            return False
        tally.add(outcome, detail)
        tally.slowest_s, tally.peak_mb = max(tally.slowest_s, seconds), max(tally.peak_mb, peak_mb)
    return False


def _work(pipe: Connection, corpus: str, name: str, seed: int, cases: tuple[int, int], engine: str) -> None:
    """Be the child: import the readers, take the limits, and report every case."""
    first, count = cases
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["medinterp.io", "nibabel", "pydicom"]):
            from medinterp.testing import hostile_files
    else:
        from medinterp.testing import hostile_files
    kind = hostile_files.FORMATS[name]
    clean = kind.clean()
    if hostile_files.try_reading(kind, clean) != "read":  # what is imported late is imported by this, too
        raise SystemExit(f"the undamaged {name} scan does not read, so nothing would be tested")
    limit = _status_bytes("VmSize") + MEMORY_BYTES  # of libraries' address space most is never touched
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    left = [count - first]

    def attempt(files: Any) -> None:
        begun = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(begun) + 1 + CPU_S, resource.RLIM_INFINITY))
        try:
            outcome, detail = hostile_files.try_reading(kind, files), ""
        except hostile_files.ReaderFailed as failure:
            outcome, detail = "finding", str(failure)
        pipe.send((outcome, detail, time.process_time() - begun, _peak_mb()))
        left[0] -= 1
        if left[0] == 0:  # libFuzzer would go on for a few more, and nobody would listen
            pipe.close()
            os._exit(0)

    if engine == "atheris":
        _follow_code(attempt, kind, clean, Path(corpus), [f"-seed={seed + first + 1}", f"-runs={2 * count}"])
    else:
        import numpy as np

        for number in range(first, count):
            attempt(hostile_files.damaged(kind, clean, np.random.default_rng([seed, number])))


def _follow_code(
    attempt: Callable[[Any], None], kind: Any, clean: Any, corpus: Path, options: Sequence[str]
) -> None:  # fmt: skip
    """Let libFuzzer choose, by the branches that a header reached; the last attempt ends the process."""
    import atheris
    import numpy as np

    from medinterp.testing import hostile_files

    names = sorted(clean)

    def mutate(content: bytes, max_size: int, seed: int) -> bytes:
        if seed % 4 == 0:
            return bytes(atheris.Mutate(content, max_size))
        return hostile_files.damage_one(kind, content, np.random.default_rng(seed))[:max_size]

    def one(content: bytes) -> None:
        attempt({**clean, names[len(content) % len(names)]: content})

    for name, content in clean.items():
        (corpus / name).write_bytes(content)
    fixed = ["-max_len=65536", "-rss_limit_mb=0", "-verbosity=0", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], *options, *fixed, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _status_bytes(line: str) -> int:
    """Return a number of this process that only Linux tells; 0 elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    found = next(row for row in status.read_text(encoding="ascii").splitlines() if row.startswith(line))
    return int(found.split()[1]) * 1024


def _rows() -> Iterator[list[str]]:
    """Yield the rows that the page holds by now."""
    text = SECURITY.read_text(encoding="utf-8") if SECURITY.exists() else ""
    _, _, section = text.partition("<!-- begin fuzz -->")
    for line in section.partition("<!-- end fuzz -->")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(HEAD) and cells[0] != HEAD[0] and not cells[0].startswith("---"):
            yield cells


def _write(row: list[str], engine: str) -> None:
    """Put one format's row into the table, in the place of its old one."""
    rows = {cells[0]: cells for cells in _rows()} | {row[0]: row}
    packages = ("nibabel", "pydicom", "numpy", *(("atheris",) if engine == "atheris" else ()))
    text = "\n".join(["`make fuzz`", "", table(HEAD, list(rows.values())), "", versions(*packages)])
    write_section("fuzz", text, SECURITY)


if __name__ == "__main__":
    main()

"""The programs that judge what we write."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def missing(what: str) -> None:
    """Skip at a desk, fail where CI must not go without the check."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed, and CI must run this check")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def run_client() -> Callable[..., str]:
    """Run a program, found beside Python or on the path; return all it said, or skip if it is not installed."""

    def run(program: str, *arguments: str | Path) -> str:
        beside = Path(sys.executable).parent / program  # of an absolute path the path itself
        found = str(beside) if beside.exists() else shutil.which(program)
        if found is None:
            missing(program)
        call = [found, *(str(argument) for argument in arguments)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr + f"\nexit code {done.returncode}"

    return run

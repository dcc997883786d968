"""What the command line does to its own process: stopped at any moment, it ends with one line."""

import subprocess
import sys

import pytest

WHILE_LOADING = """
import os, signal
from medinterp.cli_process import leave_when_stopped
leave_when_stopped()
try:
    os.kill(os.getpid(), signal.{name})
except BaseException:  # as an import that is interrupted does
    pass
print("went on")
"""

AFTER_LOADING = """
import os, signal
from medinterp.cli_process import heavy_import, leave_when_stopped
leave_when_stopped()
with heavy_import():
    pass
try:
    os.kill(os.getpid(), signal.{name})
except KeyboardInterrupt:
    print("tidied up")
"""


def run(text, name):
    return subprocess.run(
        [sys.executable, "-c", text.format(name=name)], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_while_loading_ends_at_once_with_one_line(name):
    done = run(WHILE_LOADING, name)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "medinterp: interrupted; nothing was left in the output folder\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_after_loading_lets_the_work_tidy_up(name):
    done = run(AFTER_LOADING, name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tidied up\n", "")

"""The program ``medinterp``, also as ``python -m medinterp``: ready to be stopped before it loads anything heavy."""

from medinterp.cli_process import keep_freed_memory, leave_quickly, leave_when_stopped


def main() -> None:
    """Run the command line."""
    leave_when_stopped()
    from medinterp.cli import app

    keep_freed_memory()
    with leave_quickly():
        app(prog_name="medinterp")


if __name__ == "__main__":
    main()

"""`python -m clipsearch` and the console script."""

from __future__ import annotations


def main() -> None:
    import os
    import sys

    from clipsearch.cli.run import run

    status = run()
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):  # nobody listens any more; nor shall Python try again
            setattr(sys, name, None)
    # By now all is written and closed. To take hundreds of modules apart and free their memory
    # piece by piece would only keep the user waiting: a sixth of a small run of `index`. Workers
    # that torch started must hear of the end, though.
    if "torch" not in sys.modules:
        os._exit(status)
    raise SystemExit(status)


if __name__ == "__main__":
    main()

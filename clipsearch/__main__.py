"""`python -m clipsearch` and the console script."""

from __future__ import annotations


def main() -> None:
    from clipsearch.cli.run import run

    raise SystemExit(run())


if __name__ == "__main__":
    main()

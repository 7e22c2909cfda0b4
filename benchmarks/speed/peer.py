"""The peers, each installed by name into an environment of its own, and rclip's database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

RCLIP = "rclip==4.0.8"
# Its `clip` still imports pkg_resources, which newer setuptools lack.
CLIP_RETRIEVAL = ("clip-retrieval==2.45.0", "setuptools<80")


def install(work: Path) -> Path:
    """The `rclip` of an environment of its own; made if CLIPSEARCH_BENCH_RCLIP names none.

    It needs Python 3.12: on 3.11 pip quietly installs the much slower 3.3.
    """
    if given := os.environ.get("CLIPSEARCH_BENCH_RCLIP"):
        return Path(given)
    folder = work / "rclip-environment"
    if not (folder / "bin/rclip").exists():
        python = os.environ.get("PYTHON312") or shutil.which("python3.12")
        if python is None:
            raise SystemExit("rclip 4 needs Python 3.12: set PYTHON312 to its path")
        _environment(folder, python, (RCLIP,))
    return folder / "bin/rclip"


def install_clip_retrieval(work: Path) -> Path:
    """The Python that has clip-retrieval; CLIPSEARCH_BENCH_CLIP_RETRIEVAL may name one."""
    if given := os.environ.get("CLIPSEARCH_BENCH_CLIP_RETRIEVAL"):
        return Path(given)
    folder = work / "clip-retrieval-environment"
    if not (folder / "bin/clip-retrieval").exists():
        _environment(folder, sys.executable, CLIP_RETRIEVAL)
    return folder / "bin/python"


def _environment(folder: Path, python: str, packages: Iterable[str]) -> None:
    subprocess.run([python, "-m", "venv", folder], check=True)
    # Compiled files are part of an installation that is used more than once.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [folder / "bin/pip", "install", "--quiet", *packages]
    subprocess.run(command, check=True, env=environment)


def data_folder(work: Path, name: str) -> Path:
    """A folder for RCLIP_DATADIR: links to the model, and a database of its own."""
    folder = work / f"rclip-{name}"
    folder.mkdir(exist_ok=True)
    for entry in (work / "rclip").iterdir():
        link = folder / entry.name
        if not link.exists():
            link.symlink_to(entry)
    return folder


def write_database(path: Path, rows: Iterable[tuple[str, float, int, bytes, str]]) -> None:
    """A database in rclip's own schema (version 4), as its `db.py` makes it.

    Args:
        rows: path, modification time in seconds, size, float32[512] vector, hash.
    """
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA page_size = 16384")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.executescript(
            "CREATE TABLE images (id INTEGER PRIMARY KEY, deleted BOOLEAN,"
            " filepath TEXT NOT NULL UNIQUE, modified_at DATETIME NOT NULL, size INTEGER NOT NULL,"
            " vector BLOB NOT NULL, indexing BOOLEAN, hash TEXT);"
            "CREATE UNIQUE INDEX existing_images ON images(filepath) WHERE deleted IS NULL;"
            "CREATE INDEX recent_images ON images(modified_at DESC, filepath)"
            " WHERE deleted IS NULL;"
            "CREATE INDEX hash_index ON images(hash) WHERE deleted IS NULL;"
            "CREATE TABLE db_version (version INTEGER);"
            "INSERT INTO db_version VALUES (4);"
        )
        connection.executemany(
            "INSERT INTO images (filepath, modified_at, size, vector, hash) VALUES (?,?,?,?,?)",
            rows,
        )

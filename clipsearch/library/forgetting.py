"""Forgetting what the user no longer wants to find."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import PhotoFolderError
from clipsearch.library.indexing import is_inside

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog


def forget(catalog: Catalog, paths: Sequence[str | os.PathLike[str]]) -> tuple[int, int]:
    """Forget these roots, folders or files; how many files and photos went.

    Raises:
        PhotoFolderError: a path that the library does not know; nothing is forgotten then.
    """
    wanted = [os.path.abspath(Path(path).expanduser()) for path in paths]
    roots = {root.path: root for root in catalog.roots()}
    for path in wanted:
        if not any(is_inside(path, root) for root in roots):
            raise PhotoFolderError(
                f"the library knows nothing of {path}",
                hint="`clipsearch status` lists its folders",
            )
    photos_before = catalog.count_photos()
    files = 0
    for path in wanted:
        root = next(root for root in roots.values() if is_inside(path, root.path))
        if path == root.path:
            files += catalog.remove_root(root.id)
            del roots[path]
            continue
        relative = os.path.relpath(path, root.path).replace(os.sep, "/")
        gone = catalog.files_under(root.id, relative)
        if not gone:
            raise PhotoFolderError(
                f"the library knows no photo in {path}",
                hint="`clipsearch query --in` and `clipsearch problems` show what it knows",
            )
        options = dict(root.options)
        options["exclude"] = [*options.get("exclude", ()), _exclusion(relative)]
        roots[root.path] = catalog.add_root(root.path, options)
        scan = catalog.begin_scan()
        files += catalog.remove_files(gone, scan).removed
        catalog.finish_scan(scan, {"removed": len(gone)})
    return files, photos_before - catalog.count_photos()


def _exclusion(relative: str) -> str:
    """A gitignore pattern that matches this very path and what lies below it."""
    return "/" + re.sub(r"([\\*?\[\]!#\s])", r"\\\1", relative)

"""Forgetting what the user no longer wants to find."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clipsearch.errors import PhotoFolderError
from clipsearch.library.indexing import is_inside, left_out_of, relative_to, root_of

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog
    from clipsearch.store.reader import Root


class _Known(NamedTuple):
    """What the library knows of a path.

    Attributes:
        inside: the roots that it is or holds.
        above: the root around it; None if there is none.
        files: ids, for `Catalog.remove_files`, of what the root around it knows there.
    """

    inside: list[Root]
    above: Root | None
    files: list[int]


def forget(catalog: Catalog, paths: Sequence[str | os.PathLike[str]]) -> tuple[int, int]:
    """Forget these roots, folders or files; how many files and photos went.

    What lies in a root that stays is left out from now on, until it is indexed by its name.

    Raises:
        PhotoFolderError: a path that the library does not know; nothing is forgotten then.
    """
    wanted = dict.fromkeys(os.path.abspath(Path(path).expanduser()) for path in paths)
    known = {path: _known(catalog, path) for path in wanted}
    photos_before = catalog.count_photos()
    files = 0
    for path, (inside, above, ids) in known.items():
        files += sum(catalog.remove_root(root.id) for root in inside)
        now = next((root for root in catalog.roots() if above and root.id == above.id), None)
        if now is None:
            continue
        left_out = [*left_out_of(now), relative_to(path, now.path)]
        catalog.add_root(now.path, {**now.options, "left_out": left_out})
        scan = catalog.begin_scan()
        files += catalog.remove_files(ids, scan).removed
        catalog.finish_scan(scan, {"removed": len(ids)})
    return files, photos_before - catalog.count_photos()


def _known(catalog: Catalog, path: str) -> _Known:
    roots = catalog.roots()
    inside = [root for root in roots if is_inside(root.path, path)]
    above = root_of(path, [root for root in roots if root not in inside])
    if above is None and path not in [root.path for root in inside]:
        raise PhotoFolderError(
            f"the library knows nothing of {path}",
            hint="`clipsearch status` lists its folders",
        )
    ids = catalog.files_under(above.id, relative_to(path, above.path)) if above else []
    if not ids and not inside:
        raise PhotoFolderError(
            f"the library knows no photo in {path}",
            hint="`clipsearch query --in` and `clipsearch problems` show what it knows",
        )
    return _Known(inside, above, ids)

"""Forgetting what the user no longer wants to find."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipsearch.errors import PhotoFolderError
from clipsearch.library.roots import as_known, left_out_of, relative_to, root_of
from clipsearch.paths import is_inside

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
    roots = catalog.roots()
    photos_before = catalog.count_photos()
    whole: set[int] = set()
    above: dict[int, Root] = {}
    left_out: defaultdict[int, list[str]] = defaultdict(list)
    ids: set[int] = set()
    for path in dict.fromkeys(as_known(path, roots) for path in paths):
        known = _known(catalog, roots, path)
        whole.update(root.id for root in known.inside)
        if known.above is not None:
            above[known.above.id] = known.above
            left_out[known.above.id].append(relative_to(path, known.above.path))
            ids.update(known.files)
    # What is left out is written first: broken off here or below, no later run brings it back.
    for root in above.values():
        if root.id not in whole:
            places = dict.fromkeys([*left_out_of(root), *left_out[root.id]])
            catalog.add_root(root.path, {**root.options, "left_out": list(places)})
    files = sum(catalog.remove_root(root_id) for root_id in whole)
    if ids:
        scan = catalog.begin_scan()
        files += catalog.remove_files(sorted(ids), scan).removed
        catalog.finish_scan(scan, {"removed": len(ids)})
    return files, photos_before - catalog.count_photos()


def _known(catalog: Catalog, roots: Sequence[Root], path: str) -> _Known:
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

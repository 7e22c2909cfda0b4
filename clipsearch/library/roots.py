"""Which folders a library holds, and how they lie in one another.

A root is a folder that was named once; all that lies in it belongs to it, but for what lies in
another root. It is known by the path that it was named by, and found through links as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.errors import PhotoFolderError, UsageError
from clipsearch.paths import absolute, is_bare, is_inside
from clipsearch.photos.scan import (
    Exclusions,
    Scan,
    exact_pattern,
    from_root,
    is_passed_over,
    scan_folder,
)

if TYPE_CHECKING:
    from clipsearch.store.catalog import Catalog
    from clipsearch.store.reader import Root


def choose_roots(
    catalog: Catalog,
    paths: Sequence[str | os.PathLike[str]],
    *,
    exclude: Sequence[str] | None,
    follow_links: bool | None,
) -> list[Root]:
    """The roots to look at: those of the given folders (made known if new), or all.

    A folder inside a known root means that root, so that its rules for exclusion hold; what was
    removed before and is named again is wanted again. A known root inside a named one is taken
    over by it, unless it lies on another disk or where the walk of the outer one does not come to.

    Raises:
        UsageError: no folder was ever given, a glob is none, or rules come with a folder inside a
            known root; nothing is remembered then.
        PhotoFolderError: a folder that is neither there nor known; nor then.
    """
    known = {root.path: root for root in catalog.roots()}
    named = [as_known(path, known.values()) for path in paths]
    Exclusions(os.sep, exclude or ())  # says which is no glob
    for path in named:
        above = root_of(path, known.values())
        if above is None:
            _check_folder(path)
        elif not (exclude is None and follow_links is None) and above.path not in named:
            place = relative_to(path, above.path)
            raise UsageError(
                f"{path} lies in {above.path}, and such rules hold for all of that folder",
                hint=f"name {above.path}; a glob can begin with '/{place}/'",
            )
    if not named and not known:
        raise UsageError(
            "no folder was ever indexed into this library",
            hint="name one: `clipsearch index ~/Photos`",
        )
    chosen: dict[str, Root] = {}
    for path in named or list(known):
        above = root_of(path, known.values())
        if above is None:
            above = catalog.add_root(path, {})
            known[path] = above
        options = dict(above.options)
        if path != above.path:
            wanted_back = relative_to(path, above.path)
            left_out = left_out_of(above)
            if wanted_back in left_out:
                options["left_out"] = [one for one in left_out if one != wanted_back]
            elif not why_unavailable(above.path, known_files=1):
                _check_folder(path)
        if exclude is not None:
            options["exclude"] = list(exclude)
        if follow_links is not None:
            options["follow_links"] = follow_links
        if options != above.options:
            above = catalog.add_root(above.path, options)
            known[above.path] = above
        chosen[above.path] = above
    return _absorb(catalog, list(chosen.values())) if named else list(chosen.values())


def _absorb(catalog: Catalog, chosen: Sequence[Root]) -> list[Root]:
    """The chosen roots, after each took over the roots inside it that its own walk comes to.

    Those that stay apart are looked at too, where they are there: they lie in what was named.
    """
    kept: dict[int, Root] = {}
    for root in chosen:
        outer = kept[root.id] = root
        for inner in sorted(catalog.roots(), key=lambda one: len(one.path)):
            if inner.id == outer.id or not is_inside(inner.path, outer.path):
                continue
            if why_unavailable(inner.path, catalog.count_files(inner.id)):
                continue
            if _is_apart(inner, outer, catalog.roots()):
                kept.setdefault(inner.id, inner)
            else:
                options = _joined_options(outer, inner)
                catalog.absorb_root(outer, inner, options)
                outer = kept[root.id] = replace(outer, options=options)
    known = {root.id for root in catalog.roots()}
    return [root for root in kept.values() if root.id in known]


def _is_apart(inner: Root, outer: Root, roots: Sequence[Root]) -> bool:
    """Whether the inner root can go away by itself, as a disk does, or has photos of its own.

    Its own are those that the outer root's walk does not come to: behind links, below a hidden
    folder or another root. What is excluded there is not among them: that was asked for.
    """
    place = relative_to(inner.path, outer.path)
    around = root_of(os.path.dirname(inner.path), roots)
    return (
        around is None
        or around.id != outer.id
        or any(map(is_passed_over, place.split("/")))
        or os.path.realpath(inner.path) != os.path.join(os.path.realpath(outer.path), place)
        or (inner.options.get("follow_links", False) and not outer.options.get("follow_links"))
        or os.stat(inner.path).st_dev != os.stat(outer.path).st_dev
    )


def _joined_options(outer: Root, inner: Root) -> dict[str, Any]:
    """The options of the outer root with those of the inner one, said from the outer one."""
    prefix = relative_to(inner.path, outer.path)
    rules = [from_root(rule, inner.path) for rule in inner.options.get("exclude", ())]
    mounts = (f"{prefix}/{mount}" for mount in inner.options.get("mounts", ()))
    return {
        **outer.options,
        "exclude": [
            *outer.options.get("exclude", ()),
            *(_moved_pattern(rule, prefix) for rule in rules),
        ],
        "left_out": [*left_out_of(outer), *(f"{prefix}/{place}" for place in left_out_of(inner))],
        "mounts": sorted({*outer.options.get("mounts", ()), *mounts}),
    }


def _moved_pattern(pattern: str, prefix: str) -> str:
    """A gitignore pattern of the folder `prefix`, said from the folder around it."""
    anchored = "/" in pattern.rstrip("/")
    above = exact_pattern(prefix)
    return f"{above}/{pattern.lstrip('/')}" if anchored else f"{above}/**/{pattern}"


def left_out_of(root: Root) -> list[str]:
    """The files and folders of a root that were removed by name, relative to it.

    A library that was written before they were kept so has them as gitignore patterns: with a '/'
    in front, which no relative path has, and signs and blanks escaped.
    """
    return [
        re.sub(r"\\(.)", r"\1", place[1:], flags=re.DOTALL) if place.startswith("/") else place
        for place in root.options.get("left_out", ())
    ]


def as_known(path: str | os.PathLike[str], roots: Iterable[Root]) -> str:
    """An absolute path as the library writes it.

    Where that lies in no root and holds none, links are followed: a folder that was indexed through
    a link is meant by its own name too, and the other way round.
    """
    written, roots = absolute(path), list(roots)
    if any(is_inside(written, root.path) or is_inside(root.path, written) for root in roots):
        return written
    real = os.path.realpath(written)
    for root in sorted(roots, key=lambda root: -len(root.path)):
        behind = os.path.realpath(root.path)
        if is_inside(real, behind):
            return os.path.normpath(os.path.join(root.path, os.path.relpath(real, behind)))
    return written


def root_of(path: str, roots: Iterable[Root]) -> Root | None:
    """The innermost root that an absolute path lies in."""
    around = [root for root in roots if is_inside(path, root.path)]
    return max(around, key=lambda root: len(root.path), default=None)


def relative_to(path: str, folder: str) -> str:
    """`path` as seen from `folder`, as the catalogue and gitignore write it."""
    return os.path.relpath(path, folder).replace(os.sep, "/")


def _check_folder(path: str) -> None:
    try:
        os.scandir(path).close()
    except FileNotFoundError:
        raise PhotoFolderError(
            f"there is no folder {path}", hint="check the spelling, or connect its disk"
        ) from None
    except NotADirectoryError:
        raise PhotoFolderError(
            f"{path} is a file, not a folder",
            hint=f"index the folder it lies in: {os.path.dirname(path)}",
        ) from None
    except OSError as error:
        raise PhotoFolderError(
            f"cannot list {path}: {(error.strerror or str(error)).lower()}",
            hint="index it as a user who may read it",
        ) from None


def scan_root(root: Root, roots: Iterable[Root]) -> Scan:
    """The walk of one of these roots by its own rules; the other ones are not entered.

    Raises:
        PhotoFolderError: it is not there, or cannot be listed.
    """
    return scan_folder(
        Path(root.path),
        exclude=root.options.get("exclude", ()),
        left_out=left_out_of(root),
        follow_links=root.options.get("follow_links", False),
        skip=[other.path for other in roots if other.path != root.path],
        mounts=root.options.get("mounts", ()),
    )


def why_unavailable(path: str, known_files: int) -> str:
    """Why a root cannot be looked at now; '' if it can."""
    try:
        if is_bare(path) and known_files:
            return "it is empty now, as a disk that is not mounted would be"
    except FileNotFoundError:
        return "it is not there now"
    except OSError as error:
        return f"it cannot be listed ({(error.strerror or str(error)).lower()})"
    return ""

"""`status`, `problems`, `check`, `remove`, `compact`: looking after the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import given
from clipsearch.cli.output import note, stamp, table, write, write_json, write_text
from clipsearch.cli.settings import settings
from clipsearch.errors import count


def status(
    json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """What the library holds, with which model, and how it is searched."""
    from clipsearch.library.reports import embed_again

    with settings.open_library() as library:
        state = library.status()
    if json:
        from dataclasses import asdict

        write_json(asdict(state))
        return
    lines = [
        f"library   {state.folder} ({state.size_bytes / 1e6:,.1f} MB)",
        f"photos    {state.photos:,} in {count(state.files, 'file')}",
        f"problems  {state.problems:,}" + (" (`clipsearch problems`)" if state.problems else ""),
        f"search    {state.search}",
    ]
    for model in state.models:
        ready = f"{model.photos:,} of {state.photos:,} photos ready"
        use = "in use" if model.active else ready
        if model.active and model.photos < state.photos:
            use = f"in use, {ready}"
        lines.append(f"model     {model.name}, {model.dim} dimensions, {use}")
        if model.active and model.replaced:
            lines.append(
                f"          there is another {model.name} now: `{embed_again(model.name)}` embeds "
                "the photos with it"
            )
    for root in state.roots:
        there = f"last looked at: {stamp(root.last_scanned)}" if root.available else "not there now"
        lines.append(f"folder    {root.path} ({count(root.files, 'file')}, {there})")
        if root.left_out:
            named, more = root.left_out[:3], len(root.left_out) - 3
            rest = f" and {more} more" if more > 0 else ""
            lines.append(f"          without {', '.join(named)}{rest}")
    write_text("\n".join(lines) + "\n")


def problems(
    all: Annotated[
        bool, typer.Option("--all", help="Also files that are no pictures at all.")
    ] = False,
    nul: Annotated[bool, typer.Option("-0", help="Bare paths, each ended by a NUL byte.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Files that could not be read, and why. They are tried again when they change."""
    with settings.open_library() as library:
        found = library.problems(all=all)
    if json:
        write_json([{"path": path, "reason": reason} for path, reason in found])
    elif nul:
        write("".join(f"{path}\0" for path, _ in found))
    else:
        table(found, headings=("file", "why it was skipped"))
        if not found:
            note("no problems")


def check(
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what is found: rebuild what can be, drop what lies."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --repair: wait while another is writing.")
    ] = False,
) -> None:
    """Verify the database, the vectors, the search index and the photos' places.

    Ends with status 0 when the library is sound or was mended, 1 when it is damaged. Photos that
    are no longer where they were are no damage: the next `index` finds out where they went.
    """
    with settings.open_library() as library:
        findings = library.check(repair=repair, wait=wait)
    damage = [finding for finding in findings if finding.is_damage]
    mended = repair and all(finding.repairable for finding in damage)
    for finding in findings:
        write_text(f"{finding.message}\n")
        if finding.hint is not None and not (mended and finding.repairable):
            note(f"hint: {finding.hint}")
    if not damage:
        note("the library is sound")
    elif mended:
        note("mended: what was dropped comes back with the next `clipsearch index`")
    else:
        raise typer.Exit(1)


def remove(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=given.path,
            help="Folders or files to forget; they stay on the disk.",
        ),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another is writing.")] = False,
) -> None:
    """Forget folders or photos. Nothing on the disk is touched, only the library's memory.

    What lies in a folder that is still indexed stays out of the library until it is named to
    `clipsearch index`.
    """
    with settings.open_library() as library:
        files, photos = library.remove(paths, wait=wait)
    note(f"forgot {count(files, 'file')} and {count(photos, 'photo')}")


def compact(
    search: Annotated[
        str | None,
        typer.Option(
            metavar="auto|exact|lists",
            help="From now on, compare every vector, or look through lists of an index. "
            "By itself, a library takes lists from 10,000 photos on.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another is writing.")] = False,
) -> None:
    """Drop vectors of models no longer in use, and give their space back.

    `clipsearch status` says how the library is searched, and why so.
    """
    with settings.open_library() as library:
        before, after = library.compact(search=search, wait=wait)
    note(f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now")

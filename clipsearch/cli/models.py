"""`clipsearch models`: what can be used here, and how good and how large it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import given
from clipsearch.cli.output import note, table, write_json

app = typer.Typer(
    help="What models can be used here, and how good and how large they are.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def models(context: typer.Context) -> None:
    """List the models when no other word follows."""
    if context.invoked_subcommand is None:
        list_models(json=False)


@app.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Presets and the models on this machine; retrieval is text to image R@1 as published."""
    from clipsearch.library import shelf

    entries = shelf.list_models()
    if json:
        write_json([entry.as_dict() for entry in entries])
        return
    table(
        [
            (
                entry.preset,
                entry.model,
                f"{entry.size_mb:,} MB" if entry.size_mb else "",
                entry.licence,
                entry.quality,
                "yes" if entry.here else "no",
            )
            for entry in entries
        ],
        headings=("name", "model", "size", "licence", "R@1 Flickr30k / COCO", "here"),
        always_headed=True,
    )


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(parser=given.name, help="A preset, ARCH/TAG or hf-hub:OWNER/NAME."),
    ],
) -> None:
    """Fetch a model over the network; the only command that reaches out unasked for."""
    from clipsearch.library import shelf

    note(f"{name} is in {shelf.pull(name)}")


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(parser=given.path, help="An open_clip model directory."),
    ],
    name: Annotated[str, typer.Option("--name", help="What to call it from now on.")],
) -> None:
    """Take in a model directory brought from another machine."""
    from clipsearch.library import shelf

    note(f"{name} is in {shelf.import_model(path, name)}")


@app.command()
def export(
    name: Annotated[
        str,
        typer.Argument(parser=given.name, help="A model that is on this machine."),
    ],
    path: Annotated[Path, typer.Argument(parser=given.path, help="A directory to make.")],
) -> None:
    """Write a model as an open_clip directory, for another machine or program."""
    from clipsearch.library import shelf

    note(f"{name} was written to {shelf.export_model(name, path)}")


@app.command()
def remove(
    name: Annotated[
        str,
        typer.Argument(parser=given.name, help="A model that was pulled or imported."),
    ],
) -> None:
    """Delete a pulled or imported model from this machine."""
    from clipsearch.library import shelf

    shelf.remove_model(name)
    note(f"{name} is gone from this machine")

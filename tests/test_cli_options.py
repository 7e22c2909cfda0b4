"""Global options may stand before or after the command they belong to."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import typer

from clipsearch.cli import hits, query, quick
from clipsearch.cli.app import app, invoke
from clipsearch.cli.quick import plain_query
from clipsearch.cli.settings import hoist, settings

VALUES = frozenset({"--not", "--also", "-k", "--library", "--threads"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("query --library /a sea", "--library /a query sea"),
        ("query sea -q --threads=2", "-q --threads=2 query sea"),
        ("--library /a query sea", "--library /a query sea"),
        ("query --not -q sea", "query --not -q sea"),
        ("query -- --library sea", "query -- --library sea"),
        ("query sea --library", "--library query sea"),
    ],
)
def test_global_options_are_brought_to_the_front(line: str, expected: str) -> None:
    assert hoist(line.split(), VALUES) == expected.split()


QUERIES = (
    "query sea",
    "query a dog in the snow -k 20 --in there --in here",
    "query --also snow:2 --not people beach --exact --include-self -0",
    "query --image a.jpg --format json --after 2020 --before 2021-05 --camera fuji",
    "-q query sea --library /somewhere --debug",
    "query sea -v --quiet",
)
OTHERS = (
    "query --help",
    "query -h",
    "query sea -k many",
    "query sea -k " + 5000 * "1",
    "query sea -k -1",
    "query sea -k",
    "query sea -k3",
    "query sea --format=json",
    "query sea --threads 2",
    "query -- sea",
    "query sea --nonsense",
    "query --from wishes.txt",
    "index query",
    "--version",
    "",
)


@pytest.mark.parametrize("line", QUERIES)
def test_the_quick_way_reads_a_query_as_typer_does(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_query(line.split())
    assert plain is not None
    asked, chosen = plain
    seen: dict[str, Any] = {}

    def show(text: Any, **options: Any) -> None:
        seen.update(options, text=list(text))

    monkeypatch.setattr(query, "show", show)
    settings.reset()
    assert invoke(line.split()) == 0
    for name, value in seen.items():
        default = inspect.signature(hits.show).parameters[name].default
        expected = asked.get(name, default)
        read = [str(one) for one in value] if isinstance(value, list) else value
        assert read == expected or (not read and not expected), name
    for name, value in chosen.items():
        assert str(getattr(settings, name)) == str(value)
    settings.reset()


@pytest.mark.parametrize("line", OTHERS)
def test_what_is_not_plain_is_left_to_typer(line: str) -> None:
    assert plain_query(line.split()) is None


def test_the_quick_way_knows_every_option_of_a_query() -> None:
    command = typer.main.get_command(app).commands["query"]  # type: ignore[attr-defined]
    options = {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
    } - {"--help", "-h"}
    left_to_typer = {"--from"}
    assert options == {*quick._TEXT, *quick._SEVERAL, *quick._FLAGS, "-k"} | left_to_typer

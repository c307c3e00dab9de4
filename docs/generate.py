"""Write the reference pages that follow from the code: ``python docs/generate.py [--check]``.

Each function below returns one page; `PAGES` says where it goes. With ``--check`` nothing is written, and
the exit status is 1 when a page is not what the code says; `tests/docs/test_generated.py` does the same.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mesatee import errors
from mesatee.attestation.trust import TEES
from mesatee.enclave.gateway import openapi
from mesatee.enclave.gateway.api import ROUTES
from mesatee.protocol import limits, policy_text, statements
from mesatee.protocol.failures import MEANINGS as FAILURES

FOLDER: Final = Path(__file__).resolve().parent
CLI: Final = "mesatee.cli.main"
"""The module with the command line's `app`."""


def _page(title: str, lines: list[str]) -> str:
    note = "<!-- Made by docs/generate.py from the code; change the code and run `make docs`. -->"
    return "\n".join([f"# {title}", "", note, "", *lines]).rstrip() + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows),
        "",
    ]


# -- limits ----------------------------------------------------------------------------------------


def limits_page() -> str:
    """Every constant of `protocol.limits`, in its sections."""
    source = inspect.getsource(limits)
    titles = {
        number: line.removeprefix("# -- ").rstrip(" -")
        for number, line in enumerate(source.splitlines(), 1)
        if line.startswith("# -- ")
    }
    lines = ["Both ends of a boundary must agree on these numbers, so none of them is configuration.", ""]
    rows: list[list[str]] = []
    body = ast.parse(source).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        for number in [item for item in titles if item < node.lineno]:
            lines += _limits_of(rows)
            title = titles.pop(number)
            lines += [f"## {title[0].upper()}{title[1:]}", ""]
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))):
                name = node.target.id
                rows.append([f"`{name}`", _number(name, getattr(limits, name)), text])
            case _:
                # The units have no text of their own.
                continue
    return _page("Limits", lines + _limits_of(rows))


def _limits_of(rows: list[list[str]]) -> list[str]:
    found = _table(["name", "value", "what, and why"], rows) if rows else []
    rows.clear()
    return found


def _number(name: str, value: int) -> str:
    if not name.endswith("BYTES"):
        return f"{value:,}"
    for unit, name in ((limits.GIB, "GiB"), (limits.MIB, "MiB"), (limits.KIB, "KiB")):
        if value >= unit and value % unit == 0:
            return f"{value:,} ({value // unit} {name})"
    return f"{value:,}"


# -- errors ----------------------------------------------------------------------------------------


def errors_page() -> str:
    """The error tree, and the closed list of failure codes."""
    lines = [
        "Every failure that a caller may meet is one of these classes. Over HTTP an error is",
        '`{"error": {"code", "message", "hint"}}` with the status below; `hint` says what to do next.',
        "`mesatee` prints message and hint, with `--json` the same object.",
        "",
    ]
    lines += _table(["class", "code", "status", "what it means", "what to do"], list(_errors()))
    lines += [
        "## Why a run failed",
        "",
        "`TaskFailed` carries one code of a closed list. It is all that anybody but a receiver of the output",
        "`diagnostics` learns, because any other text could carry data out.",
        "",
    ]
    lines += _table(
        ["code", "what happened"], [[f"`{code}`", FAILURES[code]] for code in statements.FAILURES]
    )
    return _page("Errors", lines)


def _errors(kind: type[errors.MesateeError] = errors.MesateeError, depth: int = 0) -> Iterator[list[str]]:
    sample = kind("unknown")
    indent = "&nbsp;" * 3 * depth
    text = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    yield [f"{indent}`{kind.__name__}`", f"`{sample.code}`", str(kind.status), text, sample.hint]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _errors(child, depth + 1)


# -- the HTTP API ----------------------------------------------------------------------------------


def api_page() -> str:
    """The gateway's routes and messages, from its OpenAPI document."""
    document = openapi.document(ROUTES)
    schemas: Mapping[str, Any] = document["components"]["schemas"]
    lines = [
        'The gateway serves this over its attested channel only (ARCHITECTURE.md, "Channel"): TLS 1.3 with a',
        "client certificate, ALPN `mesatee/1`, HTTP/1.1 inside. `GET /v1/openapi.json` answers with",
        "the same in OpenAPI 3.1. Refusals are listed in [errors.md](errors.md).",
        "",
    ]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    rows = [
        [f"`{method} {path}`", operation["summary"], _query(operation), _body(operation), _answer(operation)]
        for method, path, operation in operations
    ]
    lines += _table(["route", "what it does", "query", "request", "answer"], rows)
    lines += ["## Statements that parties post", ""]
    lines += [
        "`POST /v1/statements` takes a DSSE envelope over one of these. Each also carries `origin`,",
        "`service`, `time`, `nonce` and `checkpoint`: which log and service it is for, and the newest head",
        "that its party has verified.",
        "",
    ]
    rows = [
        [f"`{kind}`", inspect.getdoc(model) or "", ", ".join(_own_fields(model)) or "nothing more"]
        for kind, model in statements.PARTY_KINDS.items()
    ]
    lines += _table(["kind", "what it says", "fields"], rows)
    lines += ["## Messages", ""]
    for name in sorted(schemas):
        lines += _schema(name, schemas[name])
    return _page("The HTTP API", lines)


def _own_fields(model: type[statements.Common]) -> list[str]:
    return [f"`{name}`" for name in model.model_fields if name not in statements.Common.model_fields]


def _query(operation: Mapping[str, Any]) -> str:
    return ", ".join(f"`{item['name']}`" for item in operation["parameters"] if item["in"] == "query")


def _body(operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody")
    if body is None:
        return ""
    return str(body["description"]) if "description" in body else _content(body["content"])


def _answer(operation: Mapping[str, Any]) -> str:
    return next(
        _content(answer["content"])
        for status, answer in operation["responses"].items()
        if status != "default"
    )


def _content(content: Mapping[str, Any]) -> str:
    if "application/json" not in content:
        return "bytes"
    return _type(content["application/json"]["schema"])


def _schema(name: str, schema: Mapping[str, Any]) -> list[str]:
    lines = [f"### {name}", ""]
    if text := schema.get("description"):
        lines += [_cell(text), ""]
    rows = [
        [f"`{field}`", _type(said), "" if field in schema.get("required", ()) else "optional"]
        for field, said in schema.get("properties", {}).items()
    ]
    return lines + (_table(["field", "type", ""], rows) if rows else [])


def _type(said: Mapping[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in said:
        name = said["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in said or "const" in said:
        return ", ".join(f"`{item}`" for item in said.get("enum", [said.get("const")]))
    if "anyOf" in said:
        return " or ".join(_type(item) for item in said["anyOf"])
    kind = said.get("type", "any")
    if kind == "array":
        return f"list of {_type(said['items'])}" if "items" in said else "list"
    if kind == "object" and isinstance(said.get("additionalProperties"), Mapping):
        return f"map of {_type(said['additionalProperties'])}"
    bounds = [f"{word} {said[key]}" for key, word in _BOUNDS.items() if key in said]
    return f"{kind} ({', '.join(bounds)})" if bounds else str(kind)


_BOUNDS: Final = {"minimum": "at least", "maximum": "at most", "maxLength": "characters up to"}


# -- the command line ------------------------------------------------------------------------------


def cli_page() -> str:
    """Every verb with its options."""
    import typer

    app = import_module(CLI).app
    lines = ["Every verb takes `--json` for machines. Exit status 0 means that all was as it should be.", ""]
    return _page("The command line", lines + list(_command(typer.main.get_command(app), "mesatee")))


def _command(command: Any, path: str) -> Iterator[str]:
    if getattr(command, "hidden", False):
        return
    yield from [f"{'##' if ' ' in path else '#'}# `{path}`" if " " in path else "## `mesatee`", ""]
    yield from [inspect.cleandoc(command.help or ""), ""]
    shown = [item for item in command.params if not getattr(item, "hidden", False) and item.name != "help"]
    arguments = [item for item in shown if item.param_type_name == "argument"]
    options = [item for item in shown if item.param_type_name == "option"]
    if shown:
        usage = " ".join([path, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
        yield from ["```", usage, "```", ""]
        rows = [[_spelling(item), item.help or "", _default(item)] for item in [*arguments, *options]]
        yield from _table(["", "what it is", "default"], rows)
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _command(child, f"{path} {name}")


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _spelling(item: Any) -> str:
    if item.param_type_name == "argument":
        return f"`{(item.metavar or item.name).upper()}`"
    return ", ".join(f"`{name}`" for name in [*item.opts, *item.secondary_opts])


def _default(item: Any) -> str:
    if item.required:
        return "required"
    # A path or a callable depends on the machine that makes this page.
    if (
        item.default is None
        or item.default in ([], (), "", False)
        or not isinstance(item.default, str | int | float)
    ):
        return ""
    return f"`{item.default}`"


# -- policies --------------------------------------------------------------------------------------


def policy_page() -> str:
    """`docs/policy.in.md` with the schema, the default texts and made examples put in."""
    schema = resources.files("mesatee.enclave.gateway").joinpath("schema.cedarschema").read_text("utf-8")
    parts = {
        "schema": schema,
        "default-dataset": policy_text.DEFAULT_DATASET_POLICY,
        "default-platform": policy_text.DEFAULT_PLATFORM_POLICY,
    }
    text = (FOLDER / "policy.in.md").read_text("utf-8")
    for name, part in parts.items():
        marker = f"@{name}@\n"
        if text.count(marker) != 1:
            raise SystemExit(f"docs/policy.in.md must have one line {marker.strip()}")
        text = text.replace(marker, part.rstrip() + "\n")
    # Beside a colon, so that no marker stands alone on the line.
    text = text.replace("@tees@", ", ".join(f"`{name}`" for name in TEES))
    title, _, rest = text.partition("\n")
    return _page(title.removeprefix("# "), rest.strip("\n").split("\n"))


# -- writing ---------------------------------------------------------------------------------------


def _pages() -> dict[str, Callable[[], str]]:
    found: dict[str, Callable[[], str]] = {
        "api.md": api_page,
        "errors.md": errors_page,
        "limits.md": limits_page,
        "policy.md": policy_page,
    }
    if importlib.util.find_spec(CLI) is not None:
        found["cli.md"] = cli_page
    return found


PAGES: Final = MappingProxyType(_pages())
"""File name -> what makes it."""


def stale(folder: Path = FOLDER) -> list[str]:
    """The pages in `folder` that are not what the code says."""
    return [
        name
        for name, make in sorted(PAGES.items())
        if not (folder / name).exists() or (folder / name).read_text("utf-8") != make()
    ]


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which are not current."""
    if arguments == ["--check"]:
        found = stale()
        for name in found:
            print(f"docs/{name} is not current: run `make docs`", file=sys.stderr)
        return 1 if found else 0
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), "utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

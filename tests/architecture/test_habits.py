"""Habits of style.md that a program can check."""

from __future__ import annotations

import ast
import importlib
import re

import pytest
from tests.support.source import Module, calls, imports, modules

from mesatee import errors
from mesatee.enclave import faults

NAMES = [module.place for module in modules()]
NOQA = re.compile(r"#\s*noqa:\s*[A-Z0-9, ]+(?P<reason>.*)")


def by_place(place: str) -> Module:
    return next(module for module in modules() if module.place == place)


def test_every_fault_point_is_declared_and_used_once() -> None:
    used: list[str] = []
    for module in modules():
        for name, call in calls(module):
            if name in ("faults.point", "point") and module.place != "enclave/faults.py":
                (argument,) = call.args
                assert isinstance(argument, ast.Constant), f"{module.place}: a fault point is a literal"
                used.append(argument.value)
    assert sorted(used) == sorted(faults.POINTS)
    assert all(len(text) > 20 for text in faults.POINTS.values())


@pytest.mark.parametrize("place", NAMES)
def test_a_broad_except_raises_again_or_says_why(place: str) -> None:
    module = by_place(place)
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "" if node.type is None else ast.unparse(node.type)
        if node.type is not None and not {"Exception", "BaseException"} & set(re.findall(r"\w+", caught)):
            continue
        if any(isinstance(item, ast.Raise) for item in node.body):
            continue
        line = module.lines[node.lineno - 1]
        found = NOQA.search(line)
        above = module.lines[max(0, node.lineno - 4) : node.lineno - 1]
        said = found["reason"].strip(" -#:") if found else ""
        explained = said or any(text.strip().startswith("#") for text in above)
        assert explained, f"{place}:{node.lineno} catches everything without a reason"


@pytest.mark.parametrize("place", NAMES)
def test_nothing_pickles_evaluates_or_runs_a_shell(place: str) -> None:
    module = by_place(place)
    refused = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    if place == "cli/convert/scripts/mesatee_sklearn.py":
        # scikit-learn's models are pickles: this script exists to read one, in a confined child of its own.
        refused -= {"joblib"}
    for item in imports(module):
        assert item.module.split(".")[0] not in refused, item
    for name, call in calls(module):
        assert name not in ("eval", "os.system", "os.popen", "tempfile.mktemp"), (place, name)
        for word in call.keywords:
            assert word.arg != "shell" or ast.unparse(word.value) == "False", (place, name)
        if name == "exec":
            # The executor of Python functions exists to do this, in the sandboxed child.
            assert place == "enclave/sandbox/executors/python.py"


@pytest.mark.parametrize("place", NAMES)
def test_a_library_never_exits_and_leaves_nothing_for_later(place: str) -> None:
    module = by_place(place)
    for number, line in enumerate(module.lines, 1):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line), f"{place}:{number}"
    for name, _ in calls(module):
        exits = name in ("exit", "quit", "sys.exit")
        if exits and not place.startswith("cli/"):
            main = next(node for node in module.tree.body if isinstance(node, ast.If))
            assert "__main__" in ast.unparse(main.test), place


@pytest.mark.parametrize("place", NAMES)
def test_a_verify_function_answers_by_raising(place: str) -> None:
    for node in ast.walk(by_place(place).tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            judges = re.match(r"(verify|appraise|authori[sz]e|validate|decide|check_)", node.name)
            assert not (judges and ast.unparse(node.returns) == "bool"), f"{place}: {node.name} -> bool"


@pytest.mark.parametrize("place", [place for place in NAMES if place.endswith("__init__.py")])
def test_a_package_says_what_it_is_and_lists_what_it_offers(place: str) -> None:
    module = by_place(place)
    text = ast.get_docstring(module.tree)
    assert text
    assert len(text) > 20, f"{place} has no docstring to speak of"
    exported = [
        item.name
        for item in imports(module)
        if item.module.startswith("mesatee") and item.name.isidentifier()
    ]
    listed = getattr(importlib.import_module(module.name), "__all__", None)
    if exported:
        assert listed is not None, f"{place} exports without __all__"
    if listed is not None:
        assert len(set(listed)) == len(listed)
        # Constants, classes, then the rest, as ruff sorts them; or plainly sorted.
        assert list(listed) in (sorted(listed), sorted(listed, key=_ruff_order)), place


def _ruff_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_the_error_tree_is_what_the_module_exports() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.MesateeError)
    }
    assert set(errors.__all__) == classes | {"from_dict"}
    assert errors.__all__[:-1] == sorted(classes)


def test_the_error_tree_is_drawn_as_it_is() -> None:
    """Each class stands in the docstring under its parent, with the status that it has."""
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    (?P<lead>[│├└─ ]*)(?P<name>[A-Z]\w+)", line)
        if found is None:
            continue
        depth = len(found["lead"])
        while stack and stack[-1][0] >= depth:
            stack.pop()
        drawn[found["name"]] = stack[-1][1] if stack else "Exception"
        stack.append((depth, found["name"]))
    for name, parent in drawn.items():
        assert getattr(errors, name).__bases__[0].__name__ == parent, name
    assert set(drawn) == set(errors.__all__) - {"from_dict"}


def test_every_error_crosses_the_wire_as_itself() -> None:
    for name in set(errors.__all__) - {"from_dict"}:
        kind = getattr(errors, name)
        error = kind("crashed") if name == "TaskFailed" else kind("a message")
        found = errors.from_dict(error.as_dict())
        assert type(found) is kind
        assert (found.message, found.hint) == (error.message, error.hint)
        assert error.hint
        assert 400 <= error.status < 600
    assert type(errors.from_dict({"code": "unheard_of"})) is errors.MesateeError

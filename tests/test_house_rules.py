"""House rules read from the files: length of functions, one meaning for a name, plain English."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES, MAX_PARAMETERS = 60, 8
REASONS = ("Long because", "Many parameters because")
"""How a line of a function's docstring begins that gives the reason for its size."""

WORDS = (
    r"told",
    r"stands",
    r"stands? in\b(?! for)",
    r"lies",
    r"whole road",
    r"(is|are|was|were) (left|let) alone",
    r"what there is to",
    r"by itself",
    r"as it stands",
    r"ever after",
    r"of its own accord",
    r"needs must",
)
"""Literary phrases; the texts are for readers with English as a second language."""

PLAIN_ENGLISH = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "rdunet_jax", "data_pipeline", "experiments")
"""Files and folders that are held to `WORDS`."""


AMERICAN = (
    r"tumors?",
    r"centers?",
    r"centered",
    r"colors?",
    r"gray",
    r"(normal|summar|raster|minim|maxim|recogn|anonym|pseudonym|organ|general|visual)iz(e|es|ed|er|ers|ing|ation)",
    r"(neighb|fav|behavi)ors?",
    r"(milli|centi)meters",
    r"rematerializ\w+",
    r"(label|model|cancel|travel)(ed|ing)",
    r"licensed? (text|notice)",
)
"""American spelling. Only the names of other code keep it: `optimizer`, `color=`, `BatchNormalization`, `"center"`."""

FOREIGN = re.compile(
    r"Lung Cancer Tumor Region|BatchNormalization|GroupNormalization|batch_normalization|unicodedata\.normalize|"
    r"distributed\.initialize|NO_COLOR|PALETTE COLOR|ROIDisplayColor|WindowCenter|center=|color(s|_scheme)?=|"
    r"prefers-color-scheme|\bcolor: |\"(center|color|gray|upper center)\"|\bfor color\b|\bcolor,|--\w+-color"
)


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    extra = [star for star in (arguments.vararg, arguments.kwarg) if star]
    return len([one for one in named if one.arg not in ("self", "cls")]) + len(extra)


def too_large() -> Iterator[str]:
    for path in sources("rdunet_jax", "data_pipeline", "experiments"):
        if path == ROOT / "rdunet_jax/cli/main.py":  # lists of arguments with their help
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            docstring = (ast.get_docstring(node) or "").splitlines()
            if lines <= MAX_LINES and parameters(node) <= MAX_PARAMETERS:
                continue
            if not any(line.strip().startswith(REASONS) for line in docstring):
                yield f"{path.relative_to(ROOT)} {node.name}"


def test_functions_are_short_or_say_why():
    assert list(too_large()) == []


def test_keras_names_the_framework_and_the_network_only():
    """The grey conversion is `slice_minmax`; recipe, augmentation, protocol and fill rule are `authors_code`."""
    allowed = re.compile(
        r'ModelConfig\("keras"\)|^\s*(name|model): (str|NetworkName|ModelName) = "keras"|model_config\("keras"|'
        r'KERAS_BACKEND|"keras": |^\s*"keras",$|^ExportFormat = '
    )
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources("rdunet_jax", "data_pipeline")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if '"keras"' in line and not allowed.search(line)
    ]
    assert lines == []


def texts(name: str) -> list[Path]:
    path = ROOT / name
    if path.is_file():
        return [path]
    kinds = {".py", ".md", ".html", ".js", ".css", ".toml", ".yml", ".bib"}
    return sorted(file for file in path.rglob("*") if file.suffix in kinds)


def lines_with(pattern: re.Pattern[str], name: str, without: re.Pattern[str] | None = None) -> list[str]:
    """Lines of a file or folder in which the pattern is found once what `without` matches is removed."""
    assert texts(name), f"{name}: no such file or folder"
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts(name)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(without.sub("", line) if without else line)
    ]


@pytest.mark.parametrize("name", PLAIN_ENGLISH)
def test_plain_english(name):
    assert lines_with(re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE), name) == []


@pytest.mark.parametrize("name", PLAIN_ENGLISH)
def test_spelling_is_british(name):
    word = re.compile(rf"(?<![A-Za-z-])({'|'.join(AMERICAN)})(?![A-Za-z])", re.IGNORECASE)
    assert [line for line in lines_with(word, name, FOREIGN) if ".css:" not in line] == []

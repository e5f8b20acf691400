"""README and docs: links have targets, every command parses, README's commands run, the glossary agrees with --help."""

import ast
import importlib
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType

import pytest
import tyro

import rdunet_jax.cli.main as command_line

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(page: Path) -> list[str]:
    """Lines of the page's `sh` blocks, without comments; a line that ends in a backslash continues."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


def with_arguments(function: Callable) -> Callable:
    """A function with the same command line that does nothing."""

    @wraps(function)
    def nothing(*_: object, **__: object) -> None:
        return None

    return nothing


def parse_rdunet(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stubs = {name: with_arguments(function) for name, function in command_line.COMMANDS.items()}
    monkeypatch.setattr(command_line, "COMMANDS", stubs)
    monkeypatch.setattr(sys, "argv", ["rdunet", *words])
    command_line.main()


def parse_experiment(module: ModuleType, words: list[str]) -> None:
    config = (tyro.conf.OmitArgPrefixes,)
    if hasattr(module, "COMMANDS"):
        stubs = {name: with_arguments(function) for name, function in module.COMMANDS.items()}
        tyro.extras.subcommand_cli_from_dict(stubs, args=words, config=config)
    else:
        tyro.cli(with_arguments(module.main), args=words, config=config)


ALL_COMMANDS = [(relative(page), line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), ALL_COMMANDS)
def test_every_command_of_the_docs_parses(page, line, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the plugins that were named are remembered there
    program, *words = shlex.split(line)
    try:
        if program == "rdunet":
            parse_rdunet(words, monkeypatch)
        elif program in ("python", "python3") and words[0] == "-m" and words[1].startswith("experiments."):
            parse_experiment(importlib.import_module(words[1]), words[2:])
        elif program in ("python", "python3") and words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file()
        elif program in ("python", "python3") and words[:2] == ["-m", "pytest"]:
            assert (ROOT / words[-1]).is_file()
        elif program == "make":
            assert set(words) <= MAKE_TARGETS
        else:  # ways to install and look around
            assert line.startswith(("pip install ", "python3 -m venv", ". .venv/bin/activate", "git clone", "cd "))
    except SystemExit as end:
        assert end.code in (0, None), f"{page}: {line}"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it for the headings used here."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    if page.name == "commands.md":  # its sections are made when the site is built
        found |= {f"rdunet-{name}" for name in command_line.COMMANDS}
    return found


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "experiments").rglob("*.md")], ids=relative)
def test_links_inside_the_repository_lead_somewhere(page) -> None:
    dead = []
    for link in links(page):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}" not in navigation] == []


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / ".ci" / "docs_hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_holds_the_help_of_every_command() -> None:
    page = hooks().on_page_markdown((ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))
    for name in command_line.COMMANDS:
        assert f"## rdunet {name}\n\n```text\nusage: rdunet {name} " in page
    assert "--augmentation-probability FLOAT" in page


def test_the_glossary_names_only_options_that_exist() -> None:
    """Its explanations of options agree with `rdunet train --help` and the other commands."""
    known = " ".join(hooks().command_help(name) for name in command_line.COMMANDS)
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    options = set(re.findall(r"`(--[a-z-]+)", glossary)) - {"--help"}
    assert options
    assert {option for option in options if not re.search(rf"{option}\b(?!-)", known)} == set()


def as_text(node: ast.AST) -> str:
    """A string of the code with … for what is filled in; empty for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(as_text(part) or "…" for part in node.values)
    if isinstance(node, ast.BinOp) and (as_text(node.left) or as_text(node.right)):
        return (as_text(node.left) or "…") + (as_text(node.right) or "…")
    return ""


def strings(node: ast.AST) -> Iterator[str]:
    """The strings in a piece of code, each once and as a whole; no docstrings."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if text := as_text(node):
        yield text
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def messages() -> list[str]:
    files = [path for package in ("rdunet_jax", "data_pipeline") for path in (ROOT / package).rglob("*.py")]
    return [text for path in files for text in strings(ast.parse(path.read_text(encoding="utf-8")))]


def quoted_messages() -> list[list[str]]:
    """The messages that the page of troubleshooting explains, each as its parts between what is filled in."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    return [[part for part in (one.strip(" ();,:") for one in message.split("…")) if part] for message in quoted]


def test_troubleshooting_quotes_messages_that_the_code_has() -> None:
    known, quoted = "\n".join(messages()), quoted_messages()
    assert len(quoted) > 100
    assert [part for parts in quoted for part in parts if part not in known] == []


REQUEST = re.compile(
    r"; (add|ask|check|choose|copy|draw|evaluate|export|give|if you|install|leave|let|lower|make|move|name|remove|"
    r"repeat|restore|run|save|start|train|try|unpack|use|wait)\b"
)


def test_troubleshooting_has_every_message_that_asks_something_of_the_user() -> None:
    quoted = quoted_messages()
    requests = [text for text in messages() if REQUEST.search(text)]
    assert len(requests) > 100
    assert [text for text in requests if not any(all(part in text for part in parts) for parts in quoted)] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.slow
@pytest.mark.full_size
def test_the_six_commands_of_the_readme_run(tmp_path, monkeypatch, optax_promotion) -> None:
    """On four small phantoms in place of the four sample patients."""
    from data_pipeline.phantom.phantom import write_phantoms

    lines = [line for line in commands(ROOT / "README.md") if line.startswith("rdunet")]
    assert [shlex.split(line)[1] for line in lines] == ["sample-data", "prepare", "train", "evaluate", "segment"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, folder in enumerate(write_phantoms(tmp_path / "sample", count=4, seed=0, slices=(12, 14)), 1):
        os.rename(folder, tmp_path / "sample" / f"pat_{number}")
    for line in lines[1:]:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        command_line.main()
    assert (tmp_path / "segmentation" / "mask.nii.gz").is_file()
    assert (tmp_path / "run" / "evaluation" / "test" / "summary.json").is_file()

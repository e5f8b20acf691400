"""The rules of imports, read from the code: which package, folder and module may import which."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data_pipeline", "rdunet_jax", "experiments")
# A folder imports folders of a larger number only, or others of its own number as long as no circle results.
# What is not a folder (config, errors, files, parallel, progress) is at the bottom.
LEVELS = {"cli": 0, "workflows": 1, "runs": 2, "page": 2, "training": 3, "inference": 3, "scoring": 3, "networks": 4}
BOTTOM = 5
# NumPy only, no pydicom: what a library folder may use of the data pipeline.
SHARED = (
    "data_pipeline.errors",
    "data_pipeline.files",
    "data_pipeline.ranges",
    "data_pipeline.registry",
    "data_pipeline.settings",
    "data_pipeline.preprocessing.intensity",
    "data_pipeline.preprocessing.network_grid",
    "data_pipeline.preprocessing.spacing",
)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path) -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {module_name(file, root): file for file in files}


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of ours that a file imports, anywhere in it: also inside functions and under `TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            # `from package import x` imports the module package.x where there is one.
            names = [
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


@cache
def edges(root: Path = ROOT) -> dict[str, frozenset[str]]:
    known = modules(root)
    return {name: frozenset(imports(path, known)) for name, path in known.items()}


def level(module: str) -> int:
    return LEVELS.get(module.split(".")[1], BOTTOM) if "." in module else BOTTOM


def broken_rules(graph: dict[str, frozenset[str]]) -> list[str]:
    """One line for each import that a rule forbids."""
    broken = []
    for module, imported in graph.items():
        package = module.split(".")[0]
        for other in sorted(imported):
            target = other.split(".")[0]
            rule = None
            if package == "data_pipeline" and target == "rdunet_jax":
                rule = "data_pipeline knows no network"
            elif target == "experiments" and package != "experiments":
                rule = "nothing imports experiments"
            elif package == "experiments" and other.startswith("rdunet_jax.cli"):
                rule = "experiments call workflows and the library, never the command line"
            elif package == "rdunet_jax" and target == "data_pipeline" and level(module) > LEVELS["workflows"]:
                if level(module) == LEVELS["networks"]:
                    rule = "networks import nothing of data_pipeline"
                elif other not in SHARED:
                    rule = f"library folders import only {', '.join(SHARED)} of data_pipeline"
            elif package == target == "rdunet_jax" and module != "rdunet_jax" and level(other) < level(module):
                rule = "arrows run down: cli, workflows, runs and page, training and inference and scoring, networks"
            if rule:
                broken.append(f"{module} imports {other}: {rule}")
    return broken


def circles(graph: dict[str, frozenset[str]]) -> list[str]:
    """Circles of imports, one line each, found by depth-first search."""
    found, done = [], set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" → ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    return found


def by_folder(graph: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """The same arrows between the folders of `rdunet_jax`."""
    folders: dict[str, set[str]] = {}
    for module, imported in graph.items():
        parts = module.split(".")
        if parts[0] == "rdunet_jax" and len(parts) > 2:
            others = {".".join(other.split(".")[:2]) for other in imported if other.count(".") > 1}
            folders.setdefault(".".join(parts[:2]), set()).update(others - {".".join(parts[:2])})
    return {folder: frozenset(others) for folder, others in folders.items()}


def test_imports_follow_the_rules():
    assert broken_rules(edges()) == []


def test_no_circles_between_modules():
    assert circles(edges()) == []


def test_no_circles_between_folders():
    ours = {folder: others for folder, others in by_folder(edges()).items()}
    assert circles({k: frozenset(o for o in v if o.startswith("rdunet_jax")) for k, v in ours.items()}) == []


def test_workflows_package_is_empty():
    assert (ROOT / "rdunet_jax/workflows/__init__.py").read_text(encoding="utf-8").strip() == ""


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("data_pipeline.splits", "import rdunet_jax.config"),
        ("rdunet_jax.training.losses", "from data_pipeline.dicom import volume"),
        ("rdunet_jax.networks.layers", "from data_pipeline.errors import InputError"),
        ("rdunet_jax.training.losses", "from rdunet_jax.workflows import train"),
        ("rdunet_jax.networks.layers", "def f():\n    from rdunet_jax.scoring import slices"),
        ("rdunet_jax.scoring.slices", "import experiments.paper.runs"),
        ("experiments.paper.numbers", "from rdunet_jax.cli.main import main"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, module, line):
    for name in PACKAGES:
        for source in (ROOT / name).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    file = tmp_path / (module.replace(".", "/") + ".py")
    file.write_text(line + "\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    new = set(broken_rules(edges(tmp_path))) - set(broken_rules(edges()))
    assert len(new) == 1
    assert new.pop().startswith(f"{module} imports ")


def test_a_circle_is_found():
    graph = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("c")}
    assert circles(graph) == ["a → b → c → a"]


# Modules whose distribution is in no extra: what the benchmark of PyTorch and the export to ONNX need is installed in a
# separate environment.
UNDECLARED = {"torch", "jax2onnx", "onnxruntime"}
OF_DEVELOPERS = (
    *("dependencies", "cuda", "keras", "tensorflow", "tensorboard", "mlflow", "wandb", "beam", "rasterisers", "dev"),
)
# Modules of extras that may not be installed, and whose distribution has another name.
PROVIDED_BY = {"mlflow": "mlflow-skinny"}


def foreign_modules(path: Path) -> set[str]:
    """Top-level modules that a file imports and that are neither ours nor Python's."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    return names - {*PACKAGES, "tests", *sys.stdlib_module_names}


def declared(extras: tuple[str, ...]) -> set[str]:
    """Normalised names of the distributions that the extras name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    lines = [line for extra in extras for line in groups[extra]]
    return {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line)[0]).lower() for line in lines}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("tests", ("dependencies", "dev")),
        ("rdunet_jax", OF_DEVELOPERS),
        ("data_pipeline", OF_DEVELOPERS),
        ("experiments", OF_DEVELOPERS),
    ],
)
def test_every_imported_package_is_declared(folder, extras):
    """What another package happens to bring is missing on a machine where that package is not installed."""
    providers = packages_distributions()

    def distributions(module: str) -> set[str]:
        names = providers.get(module, [PROVIDED_BY.get(module, module)])
        return {re.sub(r"[-_.]+", "-", name).lower() for name in names}

    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (ROOT / folder).rglob("*.py")
        for module in foreign_modules(path) - UNDECLARED
        if not distributions(module) & declared(extras)
    }
    assert found == set()

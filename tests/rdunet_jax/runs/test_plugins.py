"""Plugins: what a run records of them, how they are found again, and that a run's folder alone makes nothing run."""

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rdunet_jax.config import InferenceConfig, TrainConfig
from rdunet_jax.errors import InputError
from rdunet_jax.files import sha256_of
from rdunet_jax.networks.models import model_config
from rdunet_jax.registry import BOTTLENECKS, LOSSES
from rdunet_jax.runs import plugins
from rdunet_jax.runs.plugins import Plugin, PluginError, load_plugin, plugins_of
from rdunet_jax.runs.workdir import RunConfig

pytestmark = pytest.mark.usefixtures("new_process", "home")

PLUGIN = """
from pathlib import Path
from rdunet_jax.networks.layers import PseudoDenseBlock
from rdunet_jax.registry import BOTTLENECKS, LOSSES

with Path(__file__).with_name("log.txt").open("a") as log:
    log.write("ran\\n")

@BOTTLENECKS.register("mine")
def mine(config):
    return PseudoDenseBlock

@LOSSES.register("squared")
def squared(logits, targets):
    return ((logits - targets) ** 2).mean()
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "my_parts.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    return path


def times_run(path: Path) -> int:
    log = path.with_name("log.txt")
    return log.read_text().count("ran") if log.exists() else 0


@pytest.fixture
def run(plugin: Path, tmp_path: Path, new_process) -> Path:
    """The folder of a run whose plugin was named, as another process meets it."""
    load_plugin(plugin)
    config = RunConfig(
        model_config("tiny", bottleneck="mine"), TrainConfig(loss="bce+squared"), InferenceConfig(), "hu_window", 64
    )
    config.save(tmp_path / "run")
    new_process()
    return tmp_path / "run"


def recorded(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def test_a_run_records_the_plugins_that_it_uses(run: Path, plugin: Path) -> None:
    fields = recorded(run)
    assert fields["model"]["bottleneck"] == "mine"
    assert fields["plugins"] == [{"name": "my_parts.py", "sha256": sha256_of(plugin)}]
    assert str(plugin.parent) not in json.dumps(fields)
    (copy,) = (run / "plugins").rglob("*.py")
    assert copy.read_bytes() == plugin.read_bytes()
    load_plugin(plugin)
    plain = RunConfig(model_config("tiny"), TrainConfig(), InferenceConfig(), "hu_window", 64)
    assert plain.plugins == () and RunConfig.load(run) == replace(
        plain, model=model_config("tiny", bottleneck="mine"), train=TrainConfig(loss="bce+squared")
    )


def test_a_plugin_that_was_named_before_is_loaded_again(run: Path, plugin: Path) -> None:
    config = RunConfig.load(run)
    assert config.plugins == plugins_of(config.model, config.train, config.intensity)
    assert "mine" in BOTTLENECKS and "squared" in LOSSES
    assert times_run(plugin) == 2
    RunConfig.load(run)
    assert times_run(plugin) == 2  # once a process


def test_a_copied_run_runs_nothing_that_was_not_named(run: Path, plugin: Path, home: Path) -> None:
    (home / ".config" / "rdunet" / "plugins.json").unlink()  # another user's machine
    with pytest.raises(PluginError, match=r"needs the plugin my_parts.py .* was not named .* --plugin") as error:
        RunConfig.load(run)
    (copy,) = (run / "plugins").rglob("*.py")
    assert str(copy) in str(error.value) and "\n" not in str(error.value)
    assert times_run(plugin) == 1 and times_run(copy) == 0 and "mine" not in BOTTLENECKS
    load_plugin(copy)
    assert RunConfig.load(run).model.bottleneck == "mine"


def test_a_file_of_a_remembered_name_in_the_current_folder_does_not_run(
    run: Path, plugin: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has named an entry point, which is not installed here; a stranger's folder holds a file called so."""
    memory = home / ".config" / "rdunet" / "plugins.json"
    memory.write_text(json.dumps({sha256_of(plugin): "their-parts"}))
    strange = tmp_path / "stranger" / "their-parts"
    strange.parent.mkdir()
    strange.write_text(PLUGIN)
    monkeypatch.chdir(strange.parent)
    with pytest.raises(InputError, match="their-parts: no such plugin; give --plugin a Python file or an installed"):
        RunConfig.load(run)
    with pytest.raises(InputError, match="their-parts: no such plugin"):
        load_plugin("their-parts")
    assert times_run(strange) == 0


def test_a_plugin_that_was_renamed(run: Path, plugin: Path, new_process) -> None:
    moved = plugin.rename(plugin.with_name("other.py"))
    with pytest.raises(PluginError, match=r"my_parts.py: the plugin of .*run is missing or was renamed; give --plugin"):
        RunConfig.load(run)
    load_plugin(moved)
    assert RunConfig.load(run).model.bottleneck == "mine"
    new_process()
    assert RunConfig.load(run).model.bottleneck == "mine"  # the new place is remembered


def test_a_plugin_that_was_changed(run: Path, plugin: Path) -> None:
    plugin.write_text(PLUGIN + "# another\n")
    says = r"my_parts.py: the plugin was changed since .*run was trained with it \(SHA-256 .* then, .* now\); give"
    with pytest.raises(PluginError, match=says):
        RunConfig.load(run)
    assert times_run(plugin) == 1
    load_plugin(plugin)  # named as it is now
    with pytest.raises(PluginError, match=says) as error:
        RunConfig.load(run)
    (copy,) = (run / "plugins").rglob("*.py")
    assert str(copy) in str(error.value)


def test_a_changed_plugin_and_the_copy_of_the_run(run: Path, plugin: Path) -> None:
    plugin.write_text(PLUGIN + "# another\n")
    (copy,) = (run / "plugins").rglob("*.py")
    load_plugin(copy)
    assert RunConfig.load(run).model.bottleneck == "mine"


@pytest.mark.parametrize(
    "value",
    ["no list", [{"name": "../x.py", "sha256": "a" * 64}], [{"name": "x.py"}], [{"name": "x", "sha256": "z"}], [3]],
)
def test_a_hostile_record_is_refused_in_one_line(value: object, run: Path) -> None:
    fields = recorded(run) | {"plugins": value}
    del fields["sha256"]
    (run / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="cannot be read as a run's settings") as error:
        RunConfig.load(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "source, says",
    [
        ("", "registers no part"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("def", "SyntaxError"),
        ("from rdunet_jax.registry import LOSSES\nLOSSES.register('dice')(len)", "'dice' is built in"),
    ],
)
def test_a_plugin_that_cannot_be_used(source: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(InputError, match=says) as error:
        load_plugin(tmp_path / "bad.py")
    assert str(error.value).startswith(("bad.py", str(tmp_path / "bad.py"))) and "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"none\.py: no such plugin"):
        load_plugin(tmp_path / "none.py")


def test_a_part_of_an_interactive_session_cannot_be_recorded() -> None:
    exec("BOTTLENECKS.register('notebook')(len)", {"BOTTLENECKS": BOTTLENECKS, "__name__": "__main__"})
    model = model_config("tiny", bottleneck="notebook")
    with pytest.raises(InputError, match="bottleneck 'notebook' was registered outside of a file"):
        RunConfig(model, TrainConfig(), InferenceConfig(), "hu_window", 64)


def test_an_installed_package_offers_plugins_by_entry_points(
    tmp_path: Path, new_process, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "their_parts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path / "site")
    point = EntryPoint("their-parts", "their_parts.parts", plugins.ENTRY_POINTS)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name: [point] if name == "their-parts" else [])
    load_plugin("their-parts")
    config = RunConfig(model_config("tiny", bottleneck="mine"), TrainConfig(), InferenceConfig(), "hu_window", 64)
    assert config.plugins == (Plugin("parts.py", sha256_of(package / "parts.py")),)
    config.save(tmp_path / "run")
    assert RunConfig.load(tmp_path / "run") == config
    with pytest.raises(InputError, match="no such plugin"):
        load_plugin("their-other-parts")


def test_without_a_home_folder_a_plugin_works_and_is_not_remembered(
    run: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "MEMORY", Path("/proc/none/plugins.json"))
    with pytest.raises(PluginError, match="was not named on this machine"):
        RunConfig.load(run)
    load_plugin(plugin)
    assert RunConfig.load(run).model.bottleneck == "mine"

"""Experiments as files: what a file gives, and the one line for one that cannot be used."""

import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from rdunet_jax.config import RECIPES, InferenceConfig, TrainConfig
from rdunet_jax.errors import InputError
from rdunet_jax.networks.models import model_config
from rdunet_jax.networks.named import MODELS
from rdunet_jax.options import ExperimentOptions
from rdunet_jax.workflows.experiment_file import Experiment, Training, read_experiment
from rdunet_jax.workflows.experiment_plan import Plan
from tests.rdunet_jax.command import one_line
from tests.rdunet_jax.runs.model_files import make_run

MANY = list(range(1, 102))
FULL = """
data_dir = "data"
output = "out"
seeds = [0, 1]
folds = "all"
protocols = ["paper", "authors_code"]
baseline = "plain, loss bce"

[settings]
model = "tiny"
epochs = 4
rotation = 7.5
threshold = 0.4
evaluate = { stride = 2 }

[variants]
plain = { recipe = "plain" }
paper-wide = { widths = [4, 8], whole-skips = 0, evaluate = { fill-holes = true } }

[grid]
loss = ["bce", "bce+0.5*dice"]
"""


def read(folder: Path, text: str, **options: object) -> Experiment:
    file = folder / "experiment.toml"
    file.write_text(text, encoding="utf-8")
    return read_experiment(file, ExperimentOptions(**options))  # type: ignore[arg-type]


def test_a_file_gives_its_variants(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    assert (found.data_dir, found.output, found.seeds, found.folds) == (Path("data"), Path("out"), (0, 1), "all")
    assert [one.name for one in found.variants] == [
        f"{name}, loss {loss}" for name in ("plain", "paper-wide") for loss in ("bce", "bce+0.5*dice")
    ]
    plain, wide = found.variants[1], found.variants[2]
    assert plain.training.network == MODELS["tiny"]
    assert plain.training.recipe.augmentation == () and plain.training.recipe.loss == "bce+0.5*dice"
    assert wide.training.recipe.augmentation == RECIPES["paper"].augmentation
    assert (wide.training.network.widths, wide.training.network.whole_skips) == ((4, 8), 0)
    for one in found.variants:
        assert (one.training.recipe.epochs, one.training.recipe.augment.rotation) == (4, 7.5)
        assert one.training.inference.threshold == 0.4 and one.scoring.stride == 2
    assert wide.scoring.fill_holes and not plain.scoring.fill_holes


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        FULL,
        data_dir=Path("other"),
        seeds=(7,),
        folds=(1,),
        variants=("paper-wide, loss bce",),
        override=("epochs=9", "widths=[4]", "evaluate.stride=3"),
        baseline="paper-wide, loss bce",
    )
    (only,) = found.variants
    assert (found.data_dir, found.seeds, found.folds) == (Path("other"), (7,), (1,))
    assert (only.training.recipe.epochs, only.training.recipe.loss) == (9, "bce")
    assert only.training.network.widths == (4,) and only.scoring.stride == 3 and only.scoring.fill_holes


def test_a_setting_of_the_grid_is_not_overridden(tmp_path: Path) -> None:
    """Its rows would be named by values that they do not have."""
    with pytest.raises(InputError, match=r"--override loss: is in the grid of .*toml; choose rows with --variants"):
        read(tmp_path, FULL, override=("loss=dice",))


def test_without_variants_the_settings_or_the_grid_are_the_rows(tmp_path: Path) -> None:
    place = 'data_dir = "data"\noutput = "out"\n'
    assert [one.name for one in read(tmp_path, place).variants] == ["settings"]
    grid = "[grid]\naugmentation = [[], ['blur', 'gamma']]\nlearning-rate = [1e-3, 1e-4]\n"
    assert [one.name for one in read(tmp_path, place + grid).variants] == [
        f"augmentation {names}, learning_rate {rate}"
        for names in ("none", "blur+gamma")
        for rate in ("0.001", "0.0001")
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("epochs = 3", ("unknown setting 'epochs'",)),
        ("[settings]\nepoch = 3", ("settings.epoch: no such setting; perhaps you meant epochs",)),
        ("[settings]\nseed = 3", ("settings.seed: no such setting; list them as `seeds`",)),
        ("[settings]\nlearning-rate = 1\nlearning_rate = 1", ("settings.learning_rate: is there twice",)),
        ("[settings]\nevaluate = { epochs = 3 }", ("settings.evaluate.epochs: no such setting",)),
        ("[settings]\nevaluate = 3", ("settings.evaluate: must be a table",)),
        ("[settings]\nepochs = '3'", ("variant 'settings': epochs is 3, but must be a whole number",)),
        ("[settings]\nwidths = [4, 'x']", ("variant 'settings': widths is 4 x, but must be a list",)),
        ("[settings]\nmodel = 3", ("variant 'settings': model is 3, but must be text",)),
        ("[settings]\nrecipe = 'best'", ("variant 'settings': recipe is best, but must be one of paper",)),
        ("[settings]\nthreshold = 'histogram'", ("variant 'settings': threshold is histogram",)),
        ("seeds = 3", ("seeds is 3, but must be a list, each a whole number",)),
        ("seeds = [1, 1]", ("seeds: a number is there twice",)),
        ("folds = 'none'", ("folds is none, but must be",)),
        ("folds = [0]\n[settings]\nevaluate = { split = 'train' }", ("evaluate.split: with folds it must be test",)),
        ("[variants]\na = {}\na = { epochs = 3 }", ("not TOML", "line 5", "a = { epochs = 3 }")),
        ("[variants.a]\n[variants.a]", ("not TOML", "line 4", "[variants.a]")),
        ("[variants]\na = 3", ("variants is", "but must be")),
        ("[variants]\na = { epochs = 0 }", ("variant 'a': epochs is 0, but must be a whole number, from 1",)),
        ("[variants]\na = { widths = [4] }\n[grid]\nwidths = [[4]]", ("variants.a.widths: is in the grid too",)),
        ('[variants]\n"a\\nb" = {}', ("variants.a�b: its name must be printable",)),
        ("baseline = 'c'\n[variants]\na = {}\nb = {}", ("baseline: no variant is called 'c'; the variants are a, b",)),
        ("[grid]\nloss = []", ("grid.loss: must be a list of one value or more",)),
        ("[grid]\nloss = ['bce', 'bce']", ("two variants are called 'loss bce'",)),
        (f"[grid]\nepochs = {MANY}\nsteps = {MANY}", ("grid: more than 10000 runs",)),
        ("a = " + "[" * 5000, ("nested too deeply",)),
        ("é = 1", ("not TOML",)),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_with_file_and_key(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, f'data_dir = "data"\noutput = "out"\n{text}\n')
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'experiment.toml'}: ") and "\n" not in message
    assert all(part in message for part in parts), message


def test_a_file_that_cannot_be_read_is_one_line(rdunet, tmp_path: Path) -> None:
    one_line(rdunet("run", tmp_path / "none.toml"), "cannot be read (No such file or directory)")
    for name, content, part in (
        ("binary", b"\xff\xfe", "not a text file in UTF-8"),
        ("large", b"# " + b"x" * (1 << 20), "larger than any experiment's file"),
        ("empty", b"", "has no data_dir; add it, or give --data-dir"),
    ):
        (tmp_path / name).write_bytes(content)
        one_line(rdunet("run", tmp_path / name), str(tmp_path / name), part)
    (tmp_path / "good").write_text('data_dir = "data"\noutput = "out"\n')
    one_line(rdunet("run", tmp_path / "good", "--override", "epochs"), "--override epochs: must be KEY=VALUE")
    one_line(rdunet("run", tmp_path / "good", "--override", "epoch=3"), "settings.epoch: no such setting")
    one_line(rdunet("run", tmp_path / "good", "--variants", "a"), "--variants: no variant is called 'a'")
    one_line(rdunet("run", tmp_path / "good", "--shard", "3/2", "--folds", "all"), "--shard 3/2: must be I/N")
    one_line(rdunet("run", tmp_path / "good", "--jobs", 0), "jobs is 0, but must be")


def test_a_file_names_its_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_process) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where the plugins are remembered
    (tmp_path / "one.py").write_text(
        "from rdunet_jax.registry import LOSSES\nLOSSES.register('zero')(lambda a, b: 0.0)\n"
    )
    text = 'data_dir = "data"\noutput = "out"\n[settings]\nloss = "zero"\n'
    with pytest.raises(InputError, match="loss is 'zero', but must be"):
        read(tmp_path, text)
    found = read(tmp_path, f'plugins = ["{tmp_path / "one.py"}"]\n{text}')
    assert found.variants[0].training.recipe.loss == "zero" and found.plugins == (str(tmp_path / "one.py"),)


@pytest.mark.usefixtures("optax_promotion")
def test_an_experiment_knows_the_weights_that_it_begins_with(tmp_path: Path) -> None:
    """By their content: the same weights under another name are the same run, others under the same name are not."""

    def digest(source: Path) -> str:
        experiment = Experiment(**{**dict.fromkeys(one.name for one in fields(Experiment)), "output": tmp_path})
        training = Training(model_config("tiny"), TrainConfig(), InferenceConfig(), source)
        data = SimpleNamespace(dataset_sha256="", split_sha256="", folds_sha256=(), intensity="hu_window")
        return Plan(experiment, data).folder(training).name  # type: ignore[arg-type]

    run = make_run(tmp_path / "run")
    copy, other = shutil.copytree(run, tmp_path / "copy"), make_run(tmp_path / "other", logits=2.0)
    assert digest(Path(copy)) == digest(run) != digest(other)

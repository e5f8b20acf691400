"""The numbers of the paper as data, and the tables that compare ours with them."""

import csv
import importlib
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.paper import numbers as paper
from experiments.paper import reproduce_paper
from experiments.paper.numbers import PROPOSED, Picture, Row, Table
from experiments.paper.tables import TABLES
from rdunet_jax.config import PAPER_AUGMENTATION, RECIPES, InferenceConfig, PostprocessingConfig
from rdunet_jax.networks.named import MODELS
from rdunet_jax.options import ExperimentOptions
from rdunet_jax.workflows.experiment_file import Training, Variant, read_experiment

TABLE = Table(
    name="table9",
    title="Table 9. Anything",
    reading="Higher is better.",
    labels=("name", "Dice over"),
    measures=("mean Dice", "FP slices"),
    rows=[
        Row(("one", "tumour slices"), (0.7228, 321), (0.71284999, 300)),
        Row(("two", "tumour slices"), (0.5, None), (0.75, 8)),
        Row(("three", "tumour slices"), (0.25, 7), (None, None)),
    ],
)


def test_the_difference_is_ours_less_the_papers() -> None:
    # 0.71284999 is shown as 0.7128, and 0.7128 - 0.7228 = -0.0100: what a reader gets from the two numbers shown
    assert TABLE.rows[0].cells()[2:] == ["0.7228", "0.7128", "-0.0100", "321", "300", "-21"]
    # 0.7228 - 0.72280001 is a negative number, but no negative difference of what is shown
    assert Row((), (0.72280001,), (0.72284,)).cells() == ["0.7228", "0.7228", "+0.0000"]


def test_what_was_not_published_or_not_run_is_empty_and_named() -> None:
    assert TABLE.rows[1].cells()[2:] == ["0.5000", "0.7500", "+0.2500", "", "8", ""]
    assert TABLE.rows[2].cells()[2:] == ["0.2500", "", "", "7", "", ""]
    assert TABLE.missing == ["table9, three, tumour slices: mean Dice", "table9, three, tumour slices: FP slices"]


def test_csv_and_markdown_say_the_same(tmp_path: Path) -> None:
    TABLE.write(tmp_path)
    with (tmp_path / "table9.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    lines = [line for line in (tmp_path / "table9.md").read_text().splitlines() if line.startswith("|")]
    markdown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows == [markdown[0], *markdown[2:]]
    assert rows[0][2:5] == ["mean Dice: paper", "mean Dice: ours", "mean Dice: ours - paper"]
    assert len(rows) == 4


def test_a_picture_is_written_as_png(tmp_path: Path) -> None:
    Picture("figure9", "Figure 9", "Look.", Figure()).write(tmp_path)
    assert (tmp_path / "figure9.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_numbers_are_complete_and_agree_with_each_other() -> None:
    tables = {3: (paper.TABLE_3, 4, 2), 4: (paper.TABLE_4, 4, 2), 5: (paper.TABLE_5, 8, 4), 6: (paper.TABLE_6, 8, 4)}
    for table, rows, columns in tables.values():
        assert len(table) == rows
        for cells in table.values():
            assert len(cells) == columns and None not in cells
            assert all(0.5 < float(dice or 0) < 0.8 for dice in cells[:2])
            assert all(0 < int(count or 0) < 848 for count in cells[2:])  # Table 2's tumour slices
    # the proposed network is in all four, trained with BCE and cut at 0.7
    assert paper.TABLE_3[PROPOSED] == paper.TABLE_4[PROPOSED] == paper.TABLE_5["BCE"][:2]
    assert paper.TABLE_5["BCE"] == paper.TABLE_6["0.7"] == (0.7228, 0.7556, 321, 331)


def variants(table: str) -> dict[str, Variant]:
    """The variants of a table's file by name."""
    path, places = Path(reproduce_paper.__file__).with_name(f"{table}.toml"), (Path("data"), None, Path("out"))
    return {one.name: one for one in read_experiment(path, ExperimentOptions(*places)).variants}


def test_every_row_has_its_variant() -> None:
    for table in TABLES:
        assert table.published is None or list(table.published) == list(variants(table.name))
    assert len(variants("augmentation")) == len(PAPER_AUGMENTATION) + 3
    trainings = {one.training for table in TABLES for one in variants(table.name).values()}
    assert len(trainings) == 24  # as the docstring of reproduce_paper.py says


def test_the_files_are_the_papers_recipe_but_for_what_their_names_say() -> None:
    recipe, proposed = RECIPES["paper"], variants("table3")[PROPOSED].training
    assert proposed == Training(MODELS["paper"], recipe, InferenceConfig())
    for table in TABLES:
        for name, variant in variants(table.name).items():
            changed = variant.training.recipe
            different = {field for field in vars(recipe) if getattr(recipe, field) != getattr(changed, field)}
            if table.name in ("table3", "table4"):
                assert not different and variant.training.network in MODELS.values()
                continue
            assert variant.training.network == MODELS["paper"]
            if table.name == "augmentation":
                names = {"none": (), "all eight": PAPER_AUGMENTATION, "Keras code's": ("authors_code",)}
                assert different <= {"augmentation"}
                assert changed.augmentation == names.get(name, (name.replace(" ", "_"),))
            elif name.startswith("Tversky"):
                assert changed.loss == "tversky" and name == f"Tversky {changed.tversky_alpha}"
                assert different <= {"loss", "tversky_alpha"}
            else:
                assert different <= ({"loss"} if table.name == "table5" else set())
                assert changed.loss == (name.lower() if table.name == "table5" else "bce")
    for name, variant in variants("table6").items():
        scoring = variant.scoring.applied_to(InferenceConfig())
        threshold = 254.5 / 255 if name == "none" else float(name.partition(",")[0])
        diameter = 1 if name == "none" or name.endswith("no dilation") else 7
        assert scoring == PostprocessingConfig(threshold=threshold, dilation_diameter=diameter)


@pytest.mark.parametrize("name", ["table2_dataset", "figure2_data", "tables", "figure3_predictions", "reproduce_paper"])
def test_a_script_says_how_it_is_run(name: str) -> None:
    name = f"experiments.paper.{name}"
    module = importlib.import_module(name)
    assert module.__doc__ and re.search(rf"python -m {re.escape(name)} .*--output", module.__doc__)
    assert "--smoke" in module.__doc__ and ("takes" in module.__doc__ or "Costs" in module.__doc__)

"""The ablation: its rows, its table from made scores, and a run of it on few small phantoms."""

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from data_pipeline.errors import InputError
from experiments.studies import ablation
from experiments.studies.ablation import PARTS, SMOKE, Settings, Size, main, rows_of
from experiments.studies.ablation_table import HEADER, Scores, keep_scores, read_scores, slug, write_table
from rdunet_jax.config import RECIPES

ROWS = tuple(rows_of(Size()))
NAMES = [f"PHANTOM-{number:03d}" for number in range(1, 7)]


def scores(dice: list[float], cpu_seconds: float = 60.0) -> Scores:
    return Scores(cpu_seconds, dict(zip(NAMES, dice, strict=True)), slice_dice=0.5, false_positive_share=0.25)


def store(folder: Path, name: str, seed: int, one: Scores) -> None:
    keep_scores(folder, name, seed, one)


def test_each_row_changes_one_thing() -> None:
    rows = rows_of(Size())
    paper, ours = rows.pop("paper"), rows["rdunet"]
    for name, row in rows.items():
        base = ours if name.startswith("rdunet,") else paper
        pairs = [(base, row), (base.recipe, row.recipe)]
        changed = [
            f.name for one, other in pairs for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)
        ]
        changed = [field for field in changed if field != "recipe"]
        if "hu_windows" in changed:  # windows are cut from Hounsfield units
            changed = [field for field in changed if field != "intensity"]
        assert len(changed) == 1 or name in ("rdunet", "rdunet, all patches"), (name, changed)
    assert len({slug(name) for name in rows}) == len(rows)


def test_the_parts_are_all_that_differs_between_the_two_recipes() -> None:
    paper, ours = RECIPES["paper"], RECIPES["rdunet"]
    differ = {field.name for field in fields(paper) if getattr(paper, field.name) != getattr(ours, field.name)}
    assert differ == set(PARTS)


def test_the_table_holds_means_deviations_and_the_paired_test(tmp_path: Path) -> None:
    before = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]]
    after = [0.4, 0.45, 0.56, 0.67, 0.78, 0.89]
    for seed, dice in enumerate(before):
        store(tmp_path, "paper", seed, scores(dice, cpu_seconds=90.0 + seed))
    store(tmp_path, "all patches", 0, scores(after))
    (reference, other) = write_table(tmp_path, ROWS)
    assert reference == ("paper", "0.400 ± 0.071", "0.500 ± 0.000", "25.0 ± 0.0 %", "90", "", "", "2")
    difference = np.array(after) - np.mean(before, axis=0)
    assert other[:2] == ("all patches", "0.625") and other[7] == "1"
    assert other[5] == f"{difference.mean():+.3f}"
    p_value: Any = scipy.stats.wilcoxon(difference)[1]
    assert float(other[6]) == pytest.approx(p_value, rel=0.05)  # two digits
    with (tmp_path / "ablation.csv").open(newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [HEADER, reference, other]
    assert (tmp_path / "ablation.md").read_text().count("\n|") == 3


def test_recorded_scores_are_not_run_again(tmp_path: Path) -> None:
    store(tmp_path / "first", "paper", 0, scores([0.1, 1 / 3, 0.3, 0.4, 0.5, 0.6]))
    store(tmp_path / "first", "hu_window, two windows", 1, scores([0.2] * 6))
    write_table(tmp_path / "first", ROWS)
    recorded = tmp_path / "first" / "scores.csv"
    main(Settings(tmp_path / "second", rows=("paper",), seeds=1, recorded=recorded))
    assert read_scores(tmp_path / "second" / "full", ROWS) == read_scores(tmp_path / "first", ROWS)


@pytest.mark.parametrize("text", ["", "recipe,seed\npaper,0\n", "recipe,seed,cpu_seconds\npaper,0,x\n", None])
def test_recorded_scores_that_are_none_are_refused(tmp_path: Path, text: str | None) -> None:
    recorded = tmp_path / "recorded.csv"
    if text is not None:
        recorded.write_text(text)
    with pytest.raises(InputError, match=r"recorded\.csv: --recorded: "):
        main(Settings(tmp_path, recorded=recorded))


def test_a_row_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row is called cosin; the rows are: paper, all patches"):
        main(Settings(tmp_path, rows=("paper", "cosin")))


@pytest.mark.slow
@pytest.mark.usefixtures("optax_promotion")
def test_a_run_that_is_scored_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(Settings(tmp_path, rows=("paper",), seeds=1, smoke=True))
    (one,) = read_scores(tmp_path / "smoke", ROWS)["paper"].values()
    assert len(one.patients) == round(SMOKE.patients * SMOKE.validation_share)
    assert 0 <= one.dice <= 1 and 0 <= one.false_positive_share <= 1 and one.cpu_seconds > 0
    monkeypatch.setattr(ablation, "train_network", None)
    main(Settings(tmp_path, rows=("paper",), seeds=1, smoke=True))

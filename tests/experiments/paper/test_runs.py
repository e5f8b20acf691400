"""Networks that are trained and scored once, what happens if one fails, and (slow) the whole report."""

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data_pipeline.loading import Dataset, PatientExample
from experiments.paper import figure3_predictions, reproduce_paper
from experiments.paper import runs as paper_runs
from experiments.paper.numbers import PROPOSED
from experiments.paper.runs import PROTOCOLS, Experiments, Settings, Smoke
from experiments.paper.tables import TABLES
from rdunet_jax.errors import RunError
from rdunet_jax.options import ExperimentOptions
from rdunet_jax.scoring.protocols import score_protocol, summarise_protocol
from rdunet_jax.workflows import train_and_score as workflow
from rdunet_jax.workflows.experiment_file import Experiment, read_experiment
from rdunet_jax.workflows.prediction import ct_mask

QUIET = Console(quiet=True)
TINY = Smoke(patients=4, slices=(12, 14), image_size=16, steps=2)

pytestmark = pytest.mark.usefixtures("optax_promotion")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The tiny phantoms, as a smoke run makes them."""
    folder = tmp_path_factory.mktemp("phantoms")
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        return Experiments(Settings(folder, smoke=True), QUIET).data


def make_tiny(patch: pytest.MonkeyPatch) -> None:
    """Four phantoms, two steps, and two features wherever a network has most."""
    patch.setattr(paper_runs, "SMOKE", TINY)
    patch.setattr(reproduce_paper, "SMOKE", TINY)
    narrow = paper_runs.narrow

    def narrower(model):
        few = {name: (2,) * len(getattr(model, name)) for name in ("widths", "fusion_widths")}
        return replace(narrow(model), **few, recurrent_width=2)

    patch.setattr(paper_runs, "narrow", narrower)


@pytest.fixture
def tiny(tmp_path: Path, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Experiments]:
    """Makes a session, with the phantoms that are there already."""
    make_tiny(monkeypatch)

    def session() -> Experiments:
        experiments = Experiments(Settings(tmp_path, smoke=True), QUIET)
        experiments.__dict__["data"] = phantoms
        return experiments

    return session


def no_training(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


@pytest.mark.slow
def test_a_second_session_trains_nothing_and_takes_no_other_run(
    tiny: Callable[[], Experiments], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny().summaries("table3", "2D-LungNet")
    assert first is not None and first["paper"]["patients"] == first["authors_code"]["patients"] == 1
    monkeypatch.setattr(workflow, "train_network", no_training)
    monkeypatch.setattr(workflow, "evaluate_network", no_training)
    assert tiny().summaries("table3", "2D-LungNet") == first
    # the same folder, asked for a run of other settings
    monkeypatch.setattr(paper_runs, "SMOKE", replace(TINY, learning_rate=0.5))
    session = tiny()
    assert session.summaries("table3", "2D-LungNet") is None
    assert "trained again" in session.failures["2D-LungNet"]


def test_a_failing_run_leaves_its_cells_empty_and_is_named(
    tiny: Callable[[], Experiments], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict.fromkeys(PROTOCOLS, summary())

    def summaries(self: Experiments, table: str, name: str):
        if name == "3D-UNet":
            raise RunError("no memory")
        return found

    monkeypatch.setattr(Experiments, "_summaries", summaries)
    monkeypatch.setattr(reproduce_paper, "STAGES", {one.name: one.make for one in TABLES[:2]})
    session = tiny()
    missing = reproduce_paper.main(session)
    output = session.settings.output
    assert missing[0] == "3D-UNet (no memory)" and len(missing) == 5  # and two measures by two protocols
    report = (output / "report.md").read_text()
    assert report.startswith("These are PHANTOMS") and "**INCOMPLETE.**" in report and "- 3D-UNet (no memory)" in report
    with (output / "table4.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = {row["name"]: row["mean Dice: ours"] for row in rows}
    assert ours.pop("3D-UNet") == "" and set(ours.values()) == {"0.5000"}
    assert "INCOMPLETE" not in (output / "table3.md").read_text()


def summary() -> dict[str, float | int | None]:
    over = ("dice_tumour_slices", "patient_dice")
    dice: dict[str, float | int | None] = {f"{m}_{name}": 0.5 for m in ("mean", "median") for name in over}
    return dice | {"false_positive_slices": 3, "false_negative_slices": 4}


@pytest.mark.parametrize("arguments", [[], ["--smoke", "--data-dir", "x"], ["--data-dir", "not-there"]])
def test_wrong_arguments_are_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--output", str(tmp_path), *arguments])
    monkeypatch.setattr(paper_runs.jax.config, "update", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        paper_runs.run_script(lambda experiments: [str(experiments.data)], "")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "rdunet prepare" in error


def test_the_counts_of_table_6_move_one_way_with_the_threshold(tmp_path: Path) -> None:
    """By the settings of its file, on a made patient whose probabilities cross all thresholds."""
    rng = np.random.default_rng(0)
    truth = np.zeros((30, 64, 64), bool)
    truth[10:22, 28:36, 28:36] = True
    # Every slice has its own height, so that each threshold loses some. A CT of 64 pixels is placed on a canvas of 512,
    # so it covers the middle 4 of the network's 32 pixels.
    height = np.linspace(0.4, 0.999, 30, dtype=np.float32)[rng.permutation(30)][:, None, None]
    bump = np.zeros((30, 32, 32), np.float32)
    bump[:, 15:17, 15:17] = 1
    example = PatientExample("a", np.zeros(bump.shape, np.int16), bump > 0, truth, (3.0, 1.0, 1.0))
    summaries = {}
    file = read_experiment(paper_runs.FOLDER / "table6.toml", ExperimentOptions(tmp_path, output=tmp_path))
    for variant in file.variants:
        for protocol in PROTOCOLS:
            kernel = {"paper": "disk", "authors_code": "square"}[protocol]
            settings = replace(variant.scoring, kernel=kernel).applied_to(variant.training.inference)
            scores = score_protocol(ct_mask(height * bump, example, settings), truth, example.spacing_mm, protocol)
            summaries[variant.name, protocol] = summarise_protocol([scores], protocol)
    check_trend(summaries)


def check_trend(summaries) -> None:
    """Table 6's trend, exactly as counts, and they do move."""
    for protocol in PROTOCOLS:
        rising = [summaries[label, protocol] for label in ("0.5", "0.6", "0.7", "0.8", "0.9")]
        positives, negatives = (
            np.array([one[f"false_{kind}_slices"] for one in rising]) for kind in ("positive", "negative")
        )
        assert (np.diff(positives) <= 0).all() and (np.diff(negatives) >= 0).all()
        assert positives[0] > positives[-1] and negatives[0] < negatives[-1]
        dice = {"paper": "mean_dice_tumour_slices", "authors_code": "mean_patient_dice"}[protocol]
        for threshold in ("0.7", "0.8"):
            dilated, plain = summaries[threshold, protocol], summaries[f"{threshold}, no dilation", protocol]
            assert dilated["false_positive_slices"] == plain["false_positive_slices"]
            assert dilated[dice] != plain[dice]


@pytest.mark.slow
def test_the_whole_report_twice(tmp_path: Path, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of every table is there; the second session trains nothing and writes the same bytes.

    Three of the 24 runs: each compiles programs of its own.
    """
    make_tiny(monkeypatch)
    kept = {
        "table3": ("2D-LungNet", PROPOSED),
        "table4": (PROPOSED,),
        "table5": ("BCE",),
        "table6": (),
        "augmentation": ("none", "all eight"),
    }

    def fewer(path: Path, options: ExperimentOptions) -> Experiment:
        return read_experiment(path, replace(options, variants=kept[path.stem]))

    monkeypatch.setattr(paper_runs, "read_experiment", fewer)
    networks = {"2D-LungNet": "table3", PROPOSED: "table4"}
    monkeypatch.setattr(figure3_predictions, "NETWORKS", networks)
    settings = Settings(tmp_path, smoke=True)
    tables = ("table2", "table3", "table4", "table5", "table6", "augmentation")
    written = []
    for _ in range(2):
        session = Experiments(settings, QUIET)
        session.__dict__["data"] = phantoms
        assert reproduce_paper.main(session) == []
        written.append([(tmp_path / f"{name}.csv").read_bytes() for name in tables])
        monkeypatch.setattr(workflow, "train_network", no_training)
    assert written[0] == written[1]
    for name in tables:
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows and all(cell for row in rows for column, cell in row.items() if column.endswith(": ours"))
    report = (tmp_path / "report.md").read_text()
    assert report.splitlines()[0].startswith("These are PHANTOMS") and "INCOMPLETE" not in report
    assert all(f"({name}.png)" in report and (tmp_path / f"{name}.png").exists() for name in ("figure2", "figure3"))
    # the proposed network is the same in all tables that name it
    shown = {}
    for name, label in (("table3", PROPOSED), ("table4", PROPOSED), ("table5", "BCE"), ("table6", "0.7")):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            shown[name] = [row["mean Dice: ours"] for row in csv.DictReader(file) if label in row.values()]
    assert shown["table3"] == shown["table4"] == shown["table5"] == shown["table6"] and len(shown["table3"]) == 2
    check_counts(tmp_path / "table6.csv")


def check_counts(path: Path) -> None:
    """Table 6's trend in a written table; so short a training may leave counts that do not move."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for average in ("tumour slices", "Keras code"):
        positives, negatives = (
            {row["threshold"]: int(row[f"{kind} slices: ours"]) for row in rows if row["Dice over"] == average}
            for kind in ("FP", "FN")
        )
        rising = ("0.5", "0.6", "0.7", "0.8", "0.9", "none")
        assert (np.diff([positives[label] for label in rising]) <= 0).all()
        assert (np.diff([negatives[label] for label in rising]) >= 0).all()
        assert all(positives[label] == positives[f"{label}, no dilation"] for label in ("0.7", "0.8"))

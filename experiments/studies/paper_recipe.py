"""The paper's recipe on `easy` phantoms at a reduced size: several seeds, each augmentation alone, and each loss.

    python -m experiments.studies.paper_recipe --output build/paper_recipe

The recipe is the paper's (Adam, batch 2, cross-entropy, plateau, all eight augmentations) except for its length and
therefore its learning rate: a small network is trained on 64x64 phantoms for hundreds of steps instead of tens of
thousands. It sees all patches, is validated on patches, and takes grey values, threshold, dilation and stride from the
demo. Held-out phantoms are scored slice by slice with the best checkpoint of the run. A run that is done is not
trained again. Expect a mean Dice over tumour slices above 0.5 for every row; the last line gives mean ± sd over the
seeds. Costs tens of minutes on 2 cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.studies.paper_recipe")

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.common import script
from experiments.common.steps import phantom_dataset, train_and_score
from experiments.common.tables import write_csv
from rdunet_jax.config import PAPER_AUGMENTATION, RECIPES, TrainConfig
from rdunet_jax.networks.models import model_config
from rdunet_jax.runs.workdir import RunConfig
from rdunet_jax.workflows.demo import DATASET, INFERENCE, SLICES
from rdunet_jax.workflows.display import number, print_table

LOSSES = ("bce", "dice", "tversky", "focal", "iou", "bce+0.5*dice")
TVERSKY_ALPHA = 0.3
"""At 0.5 `tversky` equals `dice`."""


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for the phantoms, the runs and the table."""
    seeds: int = 5
    """Number of runs of the whole recipe."""
    patients: int = 56
    """Number of phantoms, split as in the demo."""
    steps: int = 300
    """Steps of each run of the whole recipe."""
    short_steps: int = 150
    """Steps of each run with one augmentation or one loss."""


def rows_of(settings: Settings) -> dict[str, TrainConfig]:
    """The recipes by the name of the run."""
    reduced = replace(RECIPES["paper"], learning_rate=3e-3, steps_per_epoch=50, selection="all", validation="patches")
    whole = replace(reduced, epochs=settings.steps // 50)
    short = replace(reduced, epochs=settings.short_steps // 50)
    rows = {f"seed {seed}": replace(whole, seed=seed) for seed in range(settings.seeds)}
    rows |= {
        f"augmentation {name}": replace(short, augmentation=(name,)) for name in (*PAPER_AUGMENTATION, "authors_code")
    }
    short = replace(short, augmentation=(), tversky_alpha=TVERSKY_ALPHA)
    return rows | {f"loss {formula}": replace(short, loss=formula) for formula in LOSSES}


def main(settings: Settings) -> None:
    console = script.make_console(100)
    data = phantom_dataset(settings.output, DATASET, settings.patients, SLICES, console)
    table, seed_dice = [], []
    for name, recipe in rows_of(settings).items():
        config = RunConfig(model_config("tiny"), recipe, INFERENCE, data.intensity, data.image_size)
        summary = train_and_score(data, settings.output / name.replace(" ", "-"), config, console)["paper"]
        dice = summary["mean_dice_tumour_slices"], summary["median_dice_tumour_slices"]
        counts = summary["false_positive_slices"], summary["false_negative_slices"]
        if name.startswith("seed"):
            seed_dice.append(dice[0])
        table.append((name, *map(number, dice), *map(str, counts)))
    header = ("name", "mean Dice", "median Dice", "FP slices", "FN slices")
    print_table(
        console, f"Held-out phantoms of level easy ({data.patient_count('test')}), tumour slices", header, table
    )
    if len(seed_dice) > 1:
        mean, deviation = statistics.mean(seed_dice), statistics.stdev(seed_dice)
        console.print(f"paper recipe, {len(seed_dice)} seeds: mean Dice {mean:.3f} ± {deviation:.3f} (sd)")
    write_csv(settings.output / "paper_recipe.csv", header, table)


if __name__ == "__main__":
    script.run(main, __doc__)

"""What each of the paper's eight augmentations brings by itself, beside none, all eight, and the Keras code's scheme.

    python -m experiments.paper.augmentation_ablation --output build/paper --data-dir data     # or --smoke

The paper names the eight (section 3.2) and publishes no numbers for them, so ours stand beside our own run without
augmentation. Trains the proposed network eleven times by the paper's recipe, 256x256, at most 30 epochs each; with all
eight it is the proposed network of the other tables, and trained once. How long that takes on a GPU was not measured.
Nor was what to expect. --smoke takes about a minute a scheme on 2 cores.

Two rows a scheme, one a way of averaging: see `table3_baselines.py`.
"""

from experiments.paper.numbers import DICE_AND_SLICES, PROPOSED, Row, Table
from experiments.paper.runs import CONVENTIONS, PROTOCOLS, Experiments, cells_of, make_alone, run_script
from rdunet_jax.config import PAPER_AUGMENTATION

SCHEMES = {
    "none": "no augmentation",
    **{name.replace("_", " "): f"{name} alone" for name in PAPER_AUGMENTATION},
    "all eight": PROPOSED,
    "Keras code's": "authors_code augmentation",
}
"""Row: name of its run."""


def make(experiments: Experiments) -> Table:
    summaries = {label: experiments.summaries(name) for label, name in SCHEMES.items()}
    rows = [
        Row(
            (label, CONVENTIONS[protocol]),
            cells_of((summaries["none"] or {}).get(protocol), protocol),
            cells_of((found or {}).get(protocol), protocol),
        )
        for label, found in summaries.items()
        for protocol in PROTOCOLS
    ]
    reading = "The difference is to our own run without augmentation, for the paper publishes no such numbers."
    labels = ("augmentation", "Dice over")
    return Table("augmentation", "Augmentation by itself", reading, labels, DICE_AND_SLICES, rows, beside="none")


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

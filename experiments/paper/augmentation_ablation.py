"""The effect of each of the paper's eight augmentations alone, with none, all eight, and the Keras code's scheme.

    python -m experiments.paper.augmentation_ablation --output build/paper --data-dir data     # or --smoke

The paper names the eight (section 3.2) but publishes no numbers for them, so each is compared with our own run without
augmentation. Trains the proposed network eleven times with the paper's recipe, 256x256, at most 30 epochs each. The run
with all eight is the proposed network of the other tables and is trained once. Neither the time on a GPU nor the scores
to expect were measured. --smoke takes about a minute per scheme on 2 cores.

Each scheme has two rows, one for each way of averaging: see `table3_baselines.py`.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.augmentation_ablation")

from experiments.paper.numbers import DICE_AND_SLICES, PROPOSED, Row, Table
from experiments.paper.runs import CONVENTIONS, PROTOCOLS, Experiments, cells_of, make_alone, run_script
from rdunet_jax.config import PAPER_AUGMENTATION

SCHEMES = {
    "none": "no augmentation",
    **{name.replace("_", " "): f"{name} alone" for name in PAPER_AUGMENTATION},
    "all eight": PROPOSED,
    "Keras code's": "authors_code augmentation",
}
"""Label of a row: name of its run."""


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
    reading = "The difference is to our own run without augmentation, as the paper publishes no such numbers."
    labels = ("augmentation", "Dice over")
    return Table("augmentation", "Each augmentation alone", reading, labels, DICE_AND_SLICES, rows, beside="none")


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

"""Table 5: the proposed network trained with eight losses.

    python -m experiments.paper.table5_losses --output build/paper --data-dir data     # or --smoke

Tversky at five alphas (the weight of false positives, see `rdunet_jax.training.losses`; 0.5 is Dice), focal, IoU, and
BCE, which is the proposed network of the other tables and is trained once. 256x256, at most 30 epochs each. In the
paper BCE has the best Dice; as alpha increases, false positive slices tend to fall from 786 to 243 and false negative
slices to rise from 221 to 396. The time on a GPU was not measured. --smoke takes about 11 minutes on 2 cores.

Each loss has two rows, one for each way of averaging: see `table3_baselines.py`. A slice is false positive if it has no
tumour and any predicted pixel, false negative if it has tumour and the prediction does not overlap it; the `Keras code`
rows count without the outer fifths of a scan.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.table5_losses")

from experiments.paper.numbers import DICE_AND_SLICES, PROPOSED, TABLE_5, Table
from experiments.paper.runs import Experiments, make_alone, run_script, table_of_runs


def make(experiments: Experiments) -> Table:
    reading = (
        "A higher alpha of the Tversky loss weights false positives more, so FP slices should fall and FN slices rise. "
        "Counts can be compared with the paper's only on its own 40 test patients."
    )
    shared = {"BCE": PROPOSED}
    return table_of_runs(experiments, "table5", "Table 5. Losses", reading, TABLE_5, DICE_AND_SLICES, shared)


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

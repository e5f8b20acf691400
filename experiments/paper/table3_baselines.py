"""Table 3: the proposed network compared with 2D-UNet, 2D-LungNet and 3D-LungNet.

    python -m experiments.paper.table3_baselines --output build/paper --data-dir data     # or --smoke

Trains the four networks with the paper's recipe, 256x256, at most 30 epochs each, and scores the test patients. A
network that another table has trained is not trained again. In the paper the proposed network is best, with a mean Dice
0.065 above 3D-LungNet. The time on a GPU was not measured. --smoke takes about 6 minutes on 2 cores. Its narrow
networks and short runs learn something, but their ranking means nothing: 3D-LungNet finds the tumours at probabilities
below the threshold of 0.7, and so scores 0.

Each network has two rows, because the paper does not say over which slices its Dice is averaged: over all tumour
slices, where a missed one counts 0; and as in its Keras code, over those slices of a patient whose Dice is neither 0
nor 1, then over patients (without the outer fifths of a scan, dilated by a square). The paper's numbers can only be of
the second kind: with 331 of 848 tumour slices missed (Table 5), a mean over all of them is below 0.61.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.table3_baselines")

from experiments.paper.numbers import DICE, TABLE_3, Table
from experiments.paper.runs import Experiments, make_alone, run_script, table_of_runs


def make(experiments: Experiments) -> Table:
    reading = (
        "Higher is better. Compare the `Keras code` row of a network with the paper, whose averages can only be of "
        "that kind. The `tumour slices` row shows the effect of missed slices."
    )
    return table_of_runs(experiments, "table3", "Table 3. Baselines", reading, TABLE_3, DICE)


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

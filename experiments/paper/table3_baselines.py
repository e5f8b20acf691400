"""Table 3: the proposed network beside 2D-UNet, 2D-LungNet and 3D-LungNet.

    python -m experiments.paper.table3_baselines --output build/paper --data-dir data     # or --smoke

Trains the four networks by the paper's recipe, 256x256, at most 30 epochs each, and scores the test patients; a
network that another table trained already is not trained again. In the paper the proposed network is first, by 0.065 of
mean Dice before 3D-LungNet. How long that takes on a GPU was not measured. --smoke takes some 6 minutes on 2 cores; its
narrow networks and short runs learn something, but their order says nothing: 3D-LungNet has found the tumours by then,
at probabilities below the threshold of 0.7, and so scores 0.

Two rows a network, for the paper does not say over which slices its Dice is averaged: over all tumour slices, a missed
one counting 0; and as its Keras code does, over a patient's slices whose Dice is neither 0 nor 1, then over patients
(without the outer fifths of a scan, dilated by a square). The paper's numbers can only be of the second kind: with 331
of 848 tumour slices missed (Table 5), a mean over all of them is below 0.61.
"""

from experiments.paper.numbers import DICE, TABLE_3, Table
from experiments.paper.runs import Experiments, make_alone, run_script, table_of_runs


def make(experiments: Experiments) -> Table:
    reading = (
        "Higher is better; compare a network's `Keras code` row with the paper, for its averages can only be of that "
        "kind, and read the `tumour slices` row for what a missed slice costs."
    )
    return table_of_runs(experiments, "table3", "Table 3. Baselines", reading, TABLE_3, DICE)


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

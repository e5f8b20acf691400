"""Table 4: what the parts of the proposed network bring, from 3D-UNet to it.

    python -m experiments.paper.table4_architectures --output build/paper --data-dir data     # or --smoke

Trains 3D-UNet, 3D-DenseUNet, 3D-DenseUNet with recurrent block and the proposed network by the paper's recipe,
256x256, at most 30 epochs each; how the first three are read is said in `rdunet_jax.networks.models`. A network that
another table trained already is not trained again. In the paper they lie within 0.035 of mean Dice, the proposed
network first. How long that takes on a GPU was not measured. --smoke takes some 5 minutes on 2 cores; the order of its
rows says nothing.

Two rows a network, one a way of averaging: see `table3_baselines.py`.
"""

from experiments.paper.numbers import DICE, TABLE_4, Table
from experiments.paper.runs import Experiments, make_alone, run_script, table_of_runs


def make(experiments: Experiments) -> Table:
    reading = (
        "From row to row the paper adds dense blocks, one recurrent layer, then the full recurrent block; compare the "
        "`Keras code` rows with the paper."
    )
    return table_of_runs(experiments, "table4", "Table 4. Architectures", reading, TABLE_4, DICE)


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

"""Table 4: the effect of each part of the proposed network, starting from 3D-UNet.

    python -m experiments.paper.table4_architectures --output build/paper --data-dir data     # or --smoke

Trains 3D-UNet, 3D-DenseUNet, 3D-DenseUNet with recurrent block and the proposed network with the paper's recipe,
256x256, at most 30 epochs each. `rdunet_jax.networks.models` says how we understand the first three. A network that
another table has trained is not trained again. In the paper all four are within 0.035 of mean Dice, the proposed
network is best. The time on a GPU was not measured. --smoke takes about 5 minutes on 2 cores; the ranking of its rows
means nothing.

Each network has two rows, one for each way of averaging: see `table3_baselines.py`.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.table4_architectures")

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

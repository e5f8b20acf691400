"""Table 2: patients and slices of the data set, one row for each split.

    python -m experiments.paper.table2_dataset --output build/paper --data-dir data     # or --smoke

Nothing is trained: the numbers are from the data set's report, counted on the CT's grid. The paper's training patients
are our training and validation patients together. With the 300 patients of the VIP Cup expect 260 and 40; the number of
slices may differ by those whose contours were repaired or rejected. Costs seconds, with --smoke half a minute for the
phantoms.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.table2_dataset")

from data_pipeline.nsclc_radiomics.report import PAPER_TABLE_2, table_2
from experiments.paper.numbers import Row, Table
from experiments.paper.runs import Experiments, make_alone, run_script

PARTS = {"train": ("train", "validation"), "test": ("test",)}
MEASURES = {"patients": "patients", "slices with tumour": "tumour_slices", "slices without": "other_slices"}


def make(experiments: Experiments) -> Table:
    counted = table_2(experiments.data.account)
    rows = [
        Row(
            (split,),
            PAPER_TABLE_2[split],
            tuple(sum(counted[part][key] for part in parts) for key in MEASURES.values()),
        )
        for split, parts in PARTS.items()
    ]
    reading = (
        "Patients, and slices with and without tumour on the CT's own grid; training includes the validation patients, "
        "as in the paper."
    )
    return Table("table2", "Table 2. The data set", reading, ("split",), tuple(MEASURES), rows)


if __name__ == "__main__":
    run_script(make_alone(make), __doc__)

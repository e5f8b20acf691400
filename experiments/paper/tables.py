"""Tables 3 to 6 and the augmentations: the networks of a file of settings each, beside the paper's numbers.

    python -m experiments.paper.tables table3 --output build/paper --data-dir data     # or --smoke

The settings are in `table3.toml` to `table6.toml` and `augmentation.toml`, with what to expect of each. `rdunet run`
takes the same files, with the same output: then it adds standard deviations, where there are several seeds, and paired
tests in place of the paper's numbers. A network that several tables need is trained once. With --smoke a training takes
about a minute on 2 cores; the ranking of its rows means nothing: some networks find the tumours at probabilities below
the threshold of 0.7, and so score 0.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.paper.tables")

from dataclasses import dataclass

from experiments.paper.numbers import DICE, DICE_AND_SLICES, TABLE_3, TABLE_4, TABLE_5, TABLE_6, Cells, Row, Table
from experiments.paper.runs import PROTOCOLS, Experiments, make_alone, run_script
from rdunet_jax.config import Protocol
from rdunet_jax.scoring.protocols import Summary

CONVENTIONS: dict[Protocol, str] = {"paper": "tumour slices", "authors_code": "Keras code"}
"""How a protocol averages the Dice, as the tables name it."""


@dataclass(frozen=True)
class PaperTable:
    """A table with two rows for each variant of a file, one for each protocol."""

    name: str
    """Of the file of settings and of the written table."""
    title: str
    reading: str
    measures: tuple[str, ...] = DICE
    """The first of `DICE_AND_SLICES`."""
    published: dict[str, Cells] | None = None
    """The paper's cells by variant; without, ours are compared with those of the variant `none`."""
    label: str = "name"

    def make(self, experiments: Experiments) -> Table:
        """The table; trains and scores what is not yet."""
        found = {name: experiments.summaries(self.name, name) for name in experiments.variants(self.name)}
        rows = []
        for name, summaries in found.items():
            for protocol in PROTOCOLS:
                ours = cells_of((summaries or {}).get(protocol), protocol)[: len(self.measures)]
                beside = (self.published or {}).get(name)
                if beside is None:
                    beside = cells_of((found["none"] or {}).get(protocol), protocol)
                rows.append(Row((name, CONVENTIONS[protocol]), beside, ours))
        labels = (self.label, "Dice over")
        beside = "none" if self.published is None else "paper"
        return Table(self.name, self.title, self.reading, labels, self.measures, rows, beside)


TABLES = (
    PaperTable(
        "table3",
        "Table 3. Baselines",
        "Higher is better. Compare the `Keras code` row of a network with the paper, whose averages can only be of "
        "that kind. The `tumour slices` row shows the effect of missed slices.",
        published=TABLE_3,
    ),
    PaperTable(
        "table4",
        "Table 4. Architectures",
        "From row to row the paper adds dense blocks, one recurrent layer, then the full recurrent block; compare the "
        "`Keras code` rows with the paper.",
        published=TABLE_4,
    ),
    PaperTable(
        "table5",
        "Table 5. Losses",
        "A higher alpha of the Tversky loss weights false positives more, so FP slices should fall and FN slices rise. "
        "Counts can be compared with the paper's only on its own 40 test patients.",
        measures=DICE_AND_SLICES,
        published=TABLE_5,
    ),
    PaperTable(
        "table6",
        "Table 6. Post-processing",
        "One network and one set of probabilities of the test patients, as in the paper. From 0.5 to 0.9, FP slices "
        "never rise and FN slices never fall; without dilation the FP slices stay the same and the Dice changes.",
        measures=DICE_AND_SLICES,
        published=TABLE_6,
        label="threshold",
    ),
    PaperTable(
        "augmentation",
        "Each augmentation alone",
        "The difference is to our own run without augmentation, as the paper publishes no such numbers.",
        measures=DICE_AND_SLICES,
        label="augmentation",
    ),
)


def cells_of(summary: Summary | None, protocol: Protocol) -> Cells:
    """The cells of `DICE_AND_SLICES`; of a run that failed, all empty."""
    if summary is None:
        return (None,) * len(DICE_AND_SLICES)
    over = {"paper": "dice_tumour_slices", "authors_code": "patient_dice"}[protocol]
    return tuple(
        summary[n] for n in (f"mean_{over}", f"median_{over}", "false_positive_slices", "false_negative_slices")
    )


if __name__ == "__main__":
    run_script({one.name: make_alone(one.make) for one in TABLES}, __doc__)

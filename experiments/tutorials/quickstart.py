"""The library on one page: phantoms as DICOM, a data set, a small network trained on it, one patient segmented.

    python -m experiments.tutorials.quickstart --output build/quickstart

Expect a falling loss and a low Dice: 40 steps show the API, they do not train a network. Costs about 2 minutes on 2
cores.
"""

if not __package__:
    raise SystemExit("error: run this in the checkout as: python -m experiments.tutorials.quickstart")

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.loading import Dataset
from data_pipeline.phantom.phantom import write_phantoms
from data_pipeline.prepare import prepare_dataset
from data_pipeline.preprocessing.intensity import normalise
from data_pipeline.settings import DatasetSettings, PrepareOptions
from experiments.common import script
from rdunet_jax.config import TrainConfig
from rdunet_jax.inference.sliding_window import SlidingWindow, network_predictor
from rdunet_jax.networks.models import create_model
from rdunet_jax.scoring.slices import score_slices, summarise
from rdunet_jax.training.loop import fit
from rdunet_jax.training.step import create_state


@dataclass(frozen=True)
class Settings:
    output: Path
    """Folder for all files; must not exist yet."""
    steps: int = 40
    """Training steps."""


def main(settings: Settings) -> None:
    # DICOM in: CT series and RTSTRUCTs, in folders of any layout.
    write_phantoms(settings.output / "dicom", count=4, slices=(40, 50))
    size = 64
    prepare_dataset(
        settings.output / "dicom",
        settings.output / "data",
        DatasetSettings(intensity="hu_window", image_size=size),
        PrepareOptions(keep_ids=True),
    )
    data = Dataset(settings.output / "data")

    # A network is a Flax module from a name or a ModelConfig; training is a loop over batches of patches.
    model = create_model("tiny")
    recipe = TrainConfig(steps=settings.steps, learning_rate=3e-3)
    to_input = partial(normalise, intensity=data.intensity)
    state = fit(
        create_state(model, recipe, (8, size, size)),
        recipe,
        normalise=to_input,
        batches=lambda start: data.batches("train", recipe.batch_size, recipe.seed, start),
        steps_per_epoch=settings.steps,
        validate=None,
        workdir=settings.output / "run",
    )

    # Sliding-window prediction of a whole patient; here on the network's grid, for brevity.
    window = SlidingWindow(network_predictor(model, to_input), batch=4)
    (patient,) = data.patients("test")
    probabilities = window(state.variables, patient.image)
    print(summarise([score_slices(probabilities > 0.5, patient.mask)]))


if __name__ == "__main__":
    script.run(main, __doc__)

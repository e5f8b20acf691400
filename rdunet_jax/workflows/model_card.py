"""The model card of a model file: Markdown, with the front matter that Hugging Face's hub reads."""

import json
import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.privacy import one_line
from data_pipeline.settings import VoxelSize
from rdunet_jax.runs.model_file import Description, Evaluation
from rdunet_jax.scoring.labels import LABELS
from rdunet_jax.workflows.display import number, plural
from rdunet_jax.workflows.prediction import in_words

_SHOWN = (
    "patients",
    "mean_volumetric_dice",
    "mean_dice_tumour_slices",
    "mean_dice_all_slices",
    "mean_patient_dice",
    "mean_volumetric_hd95_mm",
    "lesions",
    "lesions_missed",
    "lesions_false_positive",
    "false_positive_slices",
    "false_negative_slices",
)
_INTENSITIES = {
    "slice_minmax": "each slice to 8 bits from its own minimum to its own maximum; each window divided by its maximum",
    "hu_window": "Hounsfield units from -1000 to 400 to numbers from 0 to 1",
}
_PAPER = (
    "U. Kamal, A. M. Rafi, R. Hoque, J. Wu, M. K. Hasan: Lung Cancer Tumor Region Segmentation Using Recurrent "
    "3D-DenseUNet. Thoracic Image Analysis 2020, doi:10.1007/978-3-030-62469-9_4"
)


def model_card(description: Description, name: str, file: str, sha256: str) -> str:
    """The card of a model.

    Args:
        name: its heading.
        file: name of the model file that the card accompanies.
        sha256: of that file.
    """
    config = description.config
    _, rows, columns = config.window_shape
    sections = {
        "Intended use": [one_line(description.intended_use)],
        "Use": [
            "```sh",
            f"rdunet segment CT_FOLDER --model {file} --output segmentation",
            "```",
            "",
            f"`sha256sum {file}`: `{sha256}`. The file is in the safetensors format: float32 arrays and JSON, no code.",
        ],
        "What it does": [
            f"- Network: `{config.model.name}` ({config.model.architecture}, widths "
            f"{', '.join(map(str, config.model.widths))}, bottleneck {config.model.bottleneck}), windows of "
            f"{plural(config.model.patch_depth, 'slice')}.",
            f"- Input: axial chest CT, resampled to {_voxels(config.spacing)}{rows} x {columns} pixels; "
            f"{_INTENSITIES.get(config.intensity, f'grey conversion `{config.intensity}` of a plugin')}.",
            f"- Post-processing: {in_words(config.inference, config.inference)}.",
            *_chosen(description),
            *(
                f"- Needs the plugin `{one.name}` (SHA-256 `{one.sha256}`): give it by `--plugin`."
                for one in config.plugins
            ),
            f"- Weights of step {description.step} ({'best' if description.is_best else 'latest'} of its training).",
        ],
        "Training data": _training_data(description),
        "Scores": list(_scores(description)),
        "Licence and versions": [
            f"- Licence of the weights: {one_line(description.licence)}.",
            f"- {', '.join(f'{package} {version}' for package, version in description.versions.items())}.",
            f"- Method: {_PAPER}",
        ],
    }
    body = "\n\n".join("\n".join((f"## {heading}", "", *lines)) for heading, lines in sections.items())
    return f"{_front_matter(description, name)}\n# {one_line(name)}\n\n{body}\n"


def _front_matter(description: Description, name: str) -> str:
    """YAML, its values as JSON, which is YAML too."""
    is_known = re.fullmatch(r"[a-z0-9.+-]{2,40}", description.licence)
    fields: dict[str, Any] = {"license": description.licence if is_known else "other"}
    if not is_known:
        fields["license_name"] = one_line(description.licence)[:100]
    fields |= {
        "library_name": "rdunet-jax",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical", "ct", "lung", "tumour-segmentation", "jax", "flax"],
    }
    results = [result for one in description.evaluations if (result := _result(one))]
    if results:
        fields["model-index"] = [{"name": one_line(name), "results": results}]
    return "\n".join(("---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"))


def _result(one: Evaluation) -> dict[str, Any] | None:
    dice = one.scores.get("mean_volumetric_dice")
    if dice is None:
        return None
    return {
        "task": {"type": "image-segmentation"},
        "dataset": {"type": "ct", "name": f"data set {one.dataset_sha256[:12]}", "split": one.split},
        "metrics": [{"type": "dice", "name": LABELS["mean_volumetric_dice"], "value": dice}],
    }


def _voxels(spacing: VoxelSize | None) -> str:
    """What the input is resampled to, ahead of its rows and columns."""
    if spacing is None:
        return ""
    rows_mm, columns_mm, slices_mm = spacing
    return f"voxels of {rows_mm:g} x {columns_mm:g} mm on slices {slices_mm:g} mm apart, "


def _chosen(description: Description) -> list[str]:
    chosen = description.chosen_postprocessing
    if chosen is None:
        return []
    words = in_words(chosen, description.config.inference)
    return [f"- Post-processing chosen on validation patients (`--chosen-postprocessing`): {words}."]


def _training_data(description: Description) -> list[str]:
    data = description.trained_on
    if data is None:
        return ["It is not recorded what the network was trained on."]
    sets = [
        f"- Data set `{one.name}`, SHA-256 `{one.dataset_sha256}`." if one.dataset_sha256 else "- Data not recorded."
        for one in data.data_sets
    ]
    counts = (
        f"- Trained on {plural(data.patients_trained_on, 'patient')}; checkpoint and learning rate chosen on "
        f"{plural(data.patients_selected_on, 'patient')}. The file names none of them."
    )
    return [*sets, counts]


def _scores(description: Description) -> Iterator[str]:
    if not description.evaluations:
        yield "Not evaluated."
    for one in description.evaluations:
        yield f"Split `{one.split}` of data set `{one.dataset_sha256[:12]}`, protocol `{one.protocol}`; " + (
            f"{in_words(one.prediction, one.prediction)}. Patients that the network was trained or selected on: "
            f"{one.patients_seen}. Patients that failed: {one.patients_failed}."
        )
        yield from ("", "| score | value |", "|---|---|")
        for name in _SHOWN:
            if name in one.scores:
                yield f"| {LABELS[name]} | {_value(name, one)} |"
        yield ""


def _value(name: str, one: Evaluation) -> str:
    value, low, high = (one.scores.get(name + end) for end in ("", "_low", "_high"))
    if isinstance(value, int):
        return str(value)
    return number(value) if low is None or high is None else f"{number(value)} (95% {number(low)} to {number(high)})"

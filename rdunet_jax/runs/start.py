"""The start of a session: a new run is written, one that goes on is checked."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rdunet_jax.errors import RunError
from rdunet_jax.runs.manifest import sessions_before
from rdunet_jax.runs.training_data import UNKNOWN, DataIdentity, TrainingData
from rdunet_jax.runs.workdir import RunConfig

LENGTH = ("train.epochs", "train.steps")
"""Settings that may change at any time, since a run may be made longer; except with a cosine schedule, whose learning
rate depends on the length."""


def start_run(workdir: Path, run: RunConfig, data: TrainingData, other_dataset: bool = False) -> dict[str, list[Any]]:
    """Writes `config.json` and `training_data.json`; checks them first where the folder holds a run.

    A folder without a checkpoint is not a run yet: its settings are replaced. After a session that ended because a
    value was not finite, the learning rate may be lowered.

    Args:
        other_dataset: go on with another data set or split than the run's; both are recorded then.

    Returns:
        The settings that change, by name: [before, now].

    Raises:
        RunError: the folder holds a run with other settings, or on other data.
    """
    changes: dict[str, list[Any]] = {}
    if has_checkpoint(workdir):
        changes = _changes(workdir, run)
        data = _joined(workdir, data, other_dataset)
    run.save(workdir)
    data.save(workdir)
    return changes


def has_checkpoint(workdir: Path) -> bool:
    """Whether the folder holds a checkpoint, sound or not."""
    return any(path.name.isdecimal() for path in workdir.glob("checkpoints/*"))


def _changes(workdir: Path, run: RunConfig) -> dict[str, list[Any]]:
    before, now = (_flat(asdict(one)) for one in (RunConfig.load(workdir), run))
    changes = {name: [before.get(name), now[name]] for name in now if before.get(name) != now[name]}
    free = () if run.train.schedule == "cosine" else LENGTH
    refused = {name: pair for name, pair in changes.items() if name not in free}
    rate = refused.get("train.learning_rate")
    if rate and rate[1] < rate[0] and _ended_not_finite(workdir):
        del refused["train.learning_rate"]
    if refused:
        named = ", ".join(f"{name} {old} (now {new})" for name, (old, new) in refused.items())
        raise RunError(f"{workdir}: holds a run with other settings: {named}; use another --workdir")
    return changes


def _ended_not_finite(workdir: Path) -> bool:
    sessions = sessions_before(workdir)
    return bool(sessions) and sessions[-1].get("outcome") == "NotFiniteError"


def _joined(workdir: Path, data: TrainingData, other_dataset: bool) -> TrainingData:
    """The run's data so far and `data`; refused where they differ and that is not on purpose."""
    now = data.data_sets[-1]
    before = TrainingData.load(workdir)
    if before is None:
        sessions = sessions_before(workdir)
        recorded = sessions[-1].get("dataset") if sessions else None
        identity = DataIdentity(**recorded) if recorded else UNKNOWN
        before = TrainingData((identity,), (), ())
    last = before.data_sets[-1]
    if last not in (now, UNKNOWN) and not other_dataset:
        raise RunError(
            f"{workdir}: the run was trained on another data set or split ({_in_words(last)}; now {_in_words(now)}); "
            "use another --workdir, or --other-dataset to go on with these data on purpose"
        )
    return before.joined_by(data)


def _in_words(data: DataIdentity) -> str:
    return f"{data.name}, SHA-256 {data.dataset_sha256[:12]}, split {data.split_sha256[:12]}"


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat

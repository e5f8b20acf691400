"""Every field of every config, outside its range, through the command line: one line that names it, and status 2."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from data_pipeline.registry import NameIn
from data_pipeline.settings import DatasetSettings
from rdunet_jax.config import (
    AugmentConfig,
    HostsConfig,
    InferenceConfig,
    ModelConfig,
    TrainConfig,
    parse_loss,
)
from rdunet_jax.errors import InputError
from rdunet_jax.options import EvaluateOptions, PostprocessingOverrides
from tests.rdunet_jax.command import Command, one_line

TRAIN = ("train", "--data-dir", "no-data", "--workdir", "no-run")
COMMANDS: dict[type, tuple[str, ...]] = {
    DatasetSettings: ("prepare", "no-source", "--data-dir", "no-data"),
    TrainConfig: TRAIN,
    AugmentConfig: TRAIN,
    HostsConfig: TRAIN,
    ModelConfig: TRAIN,
    InferenceConfig: ("import-weights", "no-file", "--workdir", "no-run"),
    EvaluateOptions: ("evaluate", "--data-dir", "no-data", "--workdir", "no-run"),
    PostprocessingOverrides: ("segment", "no-source", "--workdir", "no-run", "--output", "no-output"),
}
# Free text has no range that follows from its type.
BAD_TEXTS = {
    "name": ("", "a b", "../x", "x" * 65),
    "loss": ("", "mse", "bce+", "nan*bce", "-1*dice", "0*bce", "bce dice", "1e9*bce"),
    "coordinator": ("", "host", "host:", "host:port", "a b:1"),
    "roi": ("", " "),
}


def bad_values(kind: Any) -> Iterator[str]:
    """Values that no setting of a type takes, whatever its range; nothing for true or false."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated and isinstance(arguments[1], NameIn):
        yield "nonsense"
    elif origin is Annotated:
        yield from bad_values(arguments[0])
    elif origin in (Union, UnionType):
        for one in arguments:
            yield from bad_values(one)
    elif origin is Literal:
        yield "nonsense"
    elif origin is tuple:
        yield from bad_values(arguments[0])
    elif kind is int:
        yield from ("-1000000000000", "-1", "1000000000000", "1.5", "nan", "many")
    elif kind is float:
        yield from ("-1e30", "-1", "1e30", "nan", "inf", "-inf", "many")


def cases() -> Iterator[tuple[tuple[str, ...], str, str]]:
    for config, command in COMMANDS.items():
        hints = get_type_hints(config, include_extras=True)
        for field in dataclasses.fields(config):
            kind = hints[field.name]
            if dataclasses.is_dataclass(kind):
                assert kind in COMMANDS  # walked by itself
                continue
            bad = (*BAD_TEXTS.get(field.name, ()), *bad_values(kind))
            assert bad or kind is bool, f"{config.__name__}.{field.name}: add values outside its range to BAD_TEXTS"
            for value in bad:
                yield command, field.name, value


@pytest.fixture
def refusal(rdunet: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command that is refused; returns its one line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        result = rdunet(*arguments)
        assert result.out == ""
        return one_line(result)

    return run


@pytest.mark.slow
def test_every_field_of_every_config_has_a_range(refusal) -> None:
    for command, name, value in cases():
        flag = f"--{name.replace('_', '-')}"
        error = refusal(*command, f"{flag}={value}")
        # the setting is named, and it is found before any file is looked for
        assert (name in error or flag in error) and "no-" not in error, (flag, value, error)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("--dilation-diameter 4", "dilation_diameter is 4, but must be a whole number, odd, from 1 to 101"),
        ("--dilation-diameter 2001", "odd, from 1 to 101"),
        ("--learning-rate 0", "learning_rate is 0.0, but must be a number, above 0 up to 10"),
        ("--plateau-factor 1", "above 0 and below 1"),
        ("--min-learning-rate 1", "min_learning_rate is 1.0, but must not exceed learning_rate (0.0001)"),
        ("--steps 0", "steps is 0"),
        ("--epochs 0", "epochs is 0"),
        ("--early-stopping 0", "early_stopping is 0"),
        ("--augmentation-probability 2", "augmentation_probability is 2.0, but must be a number, from 0 to 1"),
        ("--loss mse", "loss is 'mse', but must be one of bce, dice"),
        ("--kernel-depth 2", "kernel_depth is 2, but must be a whole number, odd"),
        ("--whole-skips 4", "whole_skips is 4, but there are only 3 levels"),
        ("--dilations 1 2 3", "is a U-Net, which has no dilations"),
        ("--model 2d-lungnet --widths 4 4", "2 widths and 10 dilations"),
        ("--model 2d-lungnet --norm group", "one channel"),
        ("--norm group --widths 12 24", "cannot divide 12 channels into 8 groups"),
        ("--norm group --widths 8 16 --recurrent-width 4", "cannot divide 4 channels into 8 groups"),
        ("--widths", "widths is empty, but must be a list, each a whole number, from 1 to 4096, 1 to 32 values"),
        ("--process-id 2 --processes 2", "process_id is 2, but must be less than the number of processes (2)"),
    ],
)
def test_ranges_and_combinations(arguments: str, says: str, refusal) -> None:
    assert says in refusal(*TRAIN, *arguments.split())


@pytest.mark.parametrize("size", ["7", "0", "-1", "5000", "96 60", "0 96", "96 5000"])
def test_image_sizes(size: str, refusal) -> None:
    multiple = "network keras takes images with a multiple of 8 rows and columns, not "
    says = multiple if size in ("7", "96 60") else f"image_size is {size}, but must be a whole number, from 1 to 4096"
    assert says in refusal("models", "--image-size", *size.split())
    assert says in refusal("import-weights", "no-file", "--workdir", "no-run", "--image-size", *size.split())
    prepare = ("prepare", "no-source", "--data-dir", "no-data", "--image-size", *size.split())
    assert f"image_size is {size}, but must be a whole number, from 16 to 1024 in steps of 8" in refusal(*prepare)


def test_three_numbers_are_no_image_size(refusal) -> None:
    assert "image_size is 96 64 64" in refusal("models", "--image-size", "96", "64", "64")
    for command in (("import-weights", "no-file", "--workdir", "no-run"), ("prepare", "no-source", "--data-dir", "no")):
        assert "--image-size must have the form INT|{INT INT}" in refusal(*command, "--image-size", "96", "64", "64")


@pytest.mark.parametrize(
    "config, values, says",
    [
        (TrainConfig, {"learning_rate": "0.1"}, "learning_rate is 0.1, but must be a number"),
        (TrainConfig, {"epochs": True}, "epochs is True"),
        (TrainConfig, {"epochs": 2.0}, "epochs is 2.0"),
        (TrainConfig, {"augment": 3}, "augment is 3"),
        (TrainConfig, {"augment": {"rotation": None}}, "rotation is None"),
        (TrainConfig, {"augment": {"no_such": 1}}, "unknown setting 'no_such'"),
        (TrainConfig, {"augmentation": ["blur", "mixup"]}, "augmentation is blur mixup"),
        (ModelConfig, {"widths": 8}, "widths is 8"),
        (ModelConfig, {"widths": ["8"]}, "widths is 8"),
        (ModelConfig, {"dense": 1}, "dense is 1, but must be true or false"),
        (ModelConfig, {"norm": None}, "norm is None, but must be one of batch, group"),
        (ModelConfig, {"name": "\x1b[31m\n"}, r"name is '\x1b[31m\n'"),
        (InferenceConfig, {"threshold": "otsu"}, "threshold is otsu"),
    ],
)
def test_values_of_another_type(config: type, values: dict[str, Any], says: str) -> None:
    """As a `config.json` may hold them."""
    with pytest.raises(InputError) as error:
        config(**values)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_json_brings_back_is_the_same() -> None:
    assert TrainConfig(augmentation=["blur"], augment={"rotation": 9}) == TrainConfig(  # pyright: ignore
        augmentation=("blur",), augment=AugmentConfig(rotation=9)
    )


def test_formulas_of_losses() -> None:
    assert parse_loss("bce + 0.5*dice+1e-3*iou") == [(1.0, "bce"), (0.5, "dice"), (1e-3, "iou")]

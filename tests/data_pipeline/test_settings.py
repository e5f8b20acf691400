"""Settings are checked when they are made: one line with the range."""

import pytest

from data_pipeline.errors import InputError
from data_pipeline.settings import DatasetSettings, PrepareOptions


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "image_size",
            [0, -1, -8, 8, 60, 1032, 1_000_000, (96, 60), (0, 96), (96,), (96, 96, 96), ()],
            "image_size is .*, from 16 to 1024 in steps of 8",
        ),
        ("seed", [-1, 2**32], "seed is .* whole number, from 0 to 4294967295"),
        ("test_share", [2, -1, 1, float("nan"), float("inf")], "test_share is .* number, from 0 and below 1"),
        ("validation_share", [1, -0.1, float("nan")], "validation_share is .* number, from 0 and below 1"),
        ("roi", ["", "  "], "roi is "),
        ("intensity", ["keras", ""], "intensity is .* must be text, one of slice_minmax, hu_window"),
        ("fill_rule", ["keras"], "fill_rule is .* must be one of pixel_centre, "),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(name: str, values: list, message: str) -> None:
    for value in values:
        with pytest.raises(InputError, match=message) as error:
            DatasetSettings(**{name: value})
        assert "\n" not in str(error.value)


def test_the_ends_of_the_ranges_are_taken() -> None:
    DatasetSettings(image_size=16, seed=0, test_share=0, validation_share=0)
    DatasetSettings(image_size=1024, seed=2**32 - 1, test_share=0.999, validation_share=0.999)
    PrepareOptions(workers=1)
    PrepareOptions(workers=1024)


@pytest.mark.parametrize("workers", [-3, 0, 1025])
def test_a_number_of_workers_is_checked(workers: int) -> None:
    with pytest.raises(InputError, match=r"workers is .* whole number, from 1 to 1024"):
        PrepareOptions(workers=workers)


def test_names_of_data_sets() -> None:
    assert DatasetSettings().name == "slice_minmax_256"
    assert DatasetSettings(image_size=(96, 128), spacing=(1, 1, 3)).name == "slice_minmax_96x128_1x1x3mm"
    assert DatasetSettings(image_size=(32, 32)) == DatasetSettings(image_size=32)
    assert DatasetSettings(interpolate_gaps=True, fill_rule="rt_utils").name == "slice_minmax_256_rt_utils_interpolated"

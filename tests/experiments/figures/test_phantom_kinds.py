"""The picture of the phantoms' kinds, at a small size."""

from pathlib import Path

import pytest
from PIL import Image

from experiments.figures import phantom_kinds


@pytest.mark.slow
def test_the_picture_shows_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(phantom_kinds, "MATRIX", 32)
    monkeypatch.setattr(phantom_kinds, "show", lambda axes, phantom, volume, finding: shown.append(finding.kind))
    phantom_kinds.main(tmp_path)
    assert sorted(shown) == sorted((*phantom_kinds.TUMOUR_KINDS, *phantom_kinds.LOOKALIKE_KINDS))
    with Image.open(tmp_path / "phantom_kinds.jpg") as picture:
        assert picture.size == (1200, 384)

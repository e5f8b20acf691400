"""The notebook: what is stored of it, and (slow) that it runs."""

import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "experiments" / "tutorials" / "quickstart.ipynb"


def test_the_notebook_is_stored_without_outputs_and_names_no_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert str(ROOT) not in NOTEBOOK.read_text(encoding="utf-8") and "/home/" not in NOTEBOOK.read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
@pytest.mark.full_size
def test_the_notebook_runs_in_three_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both cores of a small machine, in processor time: a machine that does other things as well takes longer."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{seconds:.0f} s of processor time")
    assert seconds < 2 * 180
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    errors = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert errors == []
    made = tmp_path / "quickstart"
    assert (made / "segmentation" / "page.html").is_file() and (made / "convgru" / "evaluation" / "test").is_dir()

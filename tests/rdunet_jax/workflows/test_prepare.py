"""`rdunet prepare` when something goes wrong: values out of range, kills, locks, full disks, hostile names, damage."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest

from data_pipeline.errors import InputError
from data_pipeline.files import locked
from data_pipeline.loading import Dataset
from data_pipeline.nsclc_radiomics import staging
from tests.rdunet_jax.command import one_line

DUMMY = Path(__file__).resolve().parents[3] / "data_pipeline" / "nsclc_radiomics" / "dummy_data"
COMMAND = (sys.executable, "-c", "from rdunet_jax.cli.main import main\nif __name__ == '__main__': main()")
NAME = "slice_minmax_16"

pytestmark = pytest.mark.usefixtures("home")


def prepare(source: Path, data_dir: Path, *more: object) -> tuple[object, ...]:
    return ("prepare", source, "--data-dir", data_dir, "--image-size", 16, "--workers", 1, *more)


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DUMMY, tmp_path / "source"))


def edit(source: Path, patient: str, **elements: object) -> None:
    for path in sorted((source / patient).rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def rename_roi(source: Path, name: str) -> None:
    for path in sorted(source.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        if dataset.Modality == "RTSTRUCT":
            for roi in dataset.StructureSetROISequence:
                roi.ROIName = name
            dataset.save_as(path)


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--image-size", size) for size in ("0", "-1", "1000000", "60")),
        ("--seed", "-1"),
        *(("--test-share", share) for share in ("2", "-1", "nan")),
        *(("--validation-share", share) for share in ("1", "nan", "inf")),
        ("--workers", "-3"),
        ("--workers", "0"),
        ("--roi", ""),
    ],
)
def test_values_out_of_range_are_one_line_before_anything_is_read(rdunet, arguments, tmp_path: Path) -> None:
    flag, value = arguments
    result = rdunet("prepare", tmp_path / "none", "--data-dir", tmp_path / "data", f"{flag}={value}")
    shown = repr(value) if value == "(" else value or "empty"
    assert one_line(result).startswith(f"error: {flag[2:].replace('-', '_')} is {shown}") and result.out == ""
    assert not (tmp_path / "data").exists()


def test_an_overwrite_that_fails_keeps_the_old_data_set(rdunet, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert rdunet(*prepare(DUMMY, data))[0] == 0
    (data / "notes.txt").write_text("the user's own")
    (data / "nsclc_radiomics" / NAME / "incomplete.X_1.0.0").mkdir()  # of another program
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    one_line(rdunet(*prepare(DUMMY, data)), "--overwrite")
    one_line(rdunet(*prepare(DUMMY, data, "--overwrite", "--roi", "other")), "none of its 3 CT series can be used")
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    assert rdunet(*prepare(DUMMY, data, "--overwrite", "--test-share", 0, "--validation-share", 0))[0] == 0
    assert Dataset(data).patient_count("train") == 3 and (data / "notes.txt").exists()
    assert not [path for path in data.rglob("*") if path.name.startswith((".partial", ".lock"))]


def test_an_old_data_set_comes_back_after_a_kill_in_the_swap(rdunet, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert rdunet(*prepare(DUMMY, data))[0] == 0
    root = data / "nsclc_radiomics"
    digest = Dataset(data).dataset_sha256
    (root / f".partial-{NAME}").mkdir()
    (root / NAME / "1.0.0").rename(root / f".partial-{NAME}" / "old")  # what a kill between two renames leaves
    assert rdunet(*prepare(DUMMY, data, "--roi", "other", "--overwrite"))[0] == 2
    assert Dataset(data).dataset_sha256 == digest


def test_a_second_prepare_of_a_data_set_names_the_first(rdunet, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with locked(data / "nsclc_radiomics" / f".lock-{NAME}", "x"):
        one_line(rdunet(*prepare(DUMMY, data)), f"in use by process {os.getpid()} on ")
        # another data set of the same folder goes on beside it
        assert rdunet("prepare", DUMMY, "--data-dir", data, "--image-size", 24, "--workers", 1)[0] == 0
    assert rdunet(*prepare(DUMMY, data))[0] == 0


def children(pid: int) -> list[int]:
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_with_two_workers(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Starts a command, kills it as soon as it has two workers, and waits until these have ended too."""
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[int] = []
    while len(workers) < 2 and run.poll() is None:
        workers = [one for one in children(run.pid) if b"spawn_main" in command_line(one)]
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert len(workers) == 2, "the run ended before its workers were seen"
    for _ in range(400):
        if not any(b"spawn_main" in command_line(worker) for worker in workers):
            return
        time.sleep(0.05)
    pytest.fail("workers outlive their parent")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the processes from /proc")
@pytest.mark.slow
def test_workers_end_with_a_killed_demo(tmp_path: Path) -> None:
    kill_with_two_workers([*COMMAND, "demo", "--output", str(tmp_path / "demo")])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the processes from /proc")
@pytest.mark.slow
def test_workers_end_with_a_killed_prepare_and_nothing_stays_in_tmpdir(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    arguments = ("prepare", DUMMY, "--data-dir", tmp_path / "data", "--image-size", "16", "--workers", "2")
    command = [*COMMAND, *map(str, arguments)]
    kill_with_two_workers(command, environment)
    whole = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert whole.returncode == 0, whole.stderr
    assert Dataset(tmp_path / "data").patient_count("train") == 1
    assert not list((tmp_path / "tmp").iterdir())


def _end(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stage_or_die(job: staging.Job, *arguments: object) -> staging.Staged:
    if job.name == "PHANTOM-002":
        _end()
    return staging.stage(job, *arguments)  # type: ignore[arg-type]


@pytest.mark.slow  # four processes, each of which imports everything
def test_a_patient_that_ends_its_process_is_rejected_and_the_others_go_on(tmp_path: Path, monkeypatch) -> None:
    from data_pipeline.dicom.discovery import discover
    from data_pipeline.settings import DatasetSettings

    jobs = [staging.Job(n, one.patient_id, one.patient_id, one) for n, one in enumerate(discover(DUMMY).series)]
    monkeypatch.setattr(staging, "stage", _stage_or_die)
    results = staging.stage_in_processes(jobs, DatasetSettings(image_size=16), tmp_path, workers=2)
    assert [one.fault is None for one in results] == [True, False, True]
    assert "memory" in results[1].fault.reason  # type: ignore[union-attr]


def test_an_unexpected_error_rejects_one_patient_without_its_message(rdunet, tmp_path: Path, monkeypatch) -> None:
    whole = staging.prepare_patient

    def failing(series, settings):
        if series.patient_id == "PHANTOM-002":
            raise KeyError("CANARY")
        return whole(series, settings)

    monkeypatch.setattr(staging, "prepare_patient", failing)
    status, out, error = rdunet(*prepare(DUMMY, tmp_path / "data"))
    assert status == 0 and "cannot be read (KeyError)" in out and "CANARY" not in out + error
    assert len(Dataset(tmp_path / "data").account.patients) == 2


def test_a_full_disk_is_one_line(rdunet, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        for kilobytes in (0, 120, 200, 236, 244):  # full at once, in the staged arrays, in the records, in the report
            (small / "other").write_bytes(b"x" * 1024 * kilobytes)
            result = rdunet("prepare", DUMMY, "--data-dir", small / "data", "--image-size", 128, "--workers", 1)
            if result.status == 0:
                continue
            one_line(result, "make room")
            assert [path.name for path in small.iterdir()] == ["other"]
        one_line(result)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_names_of_files_folders_and_rois_stay_out(rdunet, tmp_path: Path, monkeypatch) -> None:
    source = copied(tmp_path)
    first, second, third = sorted(source.iterdir())
    folder = first.rename(source / "CANARY: Doe")
    image = sorted(folder.rglob("*.dcm"))[1]
    shutil.copy(image, image.with_name("CANARYcopy.dcm"))
    (folder / "CANARYbroken.dcm").write_bytes(image.read_bytes()[:600])
    rename_roi(second, "CANARYROI")
    shutil.rmtree(next(path for path in third.rglob("*") if path.is_dir() and len(list(path.glob("*.dcm"))) == 1))
    monkeypatch.chdir(tmp_path)
    status, out, error = rdunet(*prepare(Path("source"), Path("data")))
    assert status == 0 and "CANARY" not in out + error
    assert "with --keep-ids the report has them" in out
    written = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert b"CANARY" not in written and b"a copy of another file" in written

    status, out, _ = rdunet(*prepare(Path("source"), Path("kept"), "--keep-ids"))
    assert status == 0
    for name in ("CANARYcopy.dcm", "CANARYbroken.dcm", "CANARYROI"):
        assert name in out and name in next(Path("kept").rglob("report.md")).read_text(encoding="utf-8")


HOSTILE = ("[/bold]x", "x/../../../../ESCAPED", "a\nb\x1b[31m", "=HYPERLINK(1)", "|a|<b>")


@pytest.mark.parametrize("identity", HOSTILE)
def test_hostile_ids_become_names_that_are_safe_everywhere(rdunet, identity: str, tmp_path: Path) -> None:
    source = copied(tmp_path)
    edit(source, "PHANTOM-001", PatientID=identity)
    status, out, error = rdunet(*prepare(source, tmp_path / "data", "--keep-ids"))
    assert status == 0, error
    assert "\x1b[31m" not in out
    names = Dataset(tmp_path / "data").account.patients
    assert len(names) == 3 and {"PHANTOM-002", "PHANTOM-003"} < set(names)
    assert all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in names)


def test_hostile_names_of_rois_are_shown_as_they_are(rdunet, tmp_path: Path) -> None:
    source = copied(tmp_path)
    rename_roi(source / "PHANTOM-001", "[/bold]\x1b[31m|x|")
    status, out, error = rdunet(*prepare(source, tmp_path / "data", "--keep-ids"))
    assert status == 0, error
    assert "[/bold]" in out and "\x1b[31m" not in out
    report = next((tmp_path / "data").rglob("report.md")).read_text(encoding="utf-8")
    assert "\x1b" not in report and "\\|x\\|" in report


def test_ascii_locale_and_names_in_any_bytes(tmp_path: Path) -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    source = copied(tmp_path)
    os.rename(source / "PHANTOM-001", os.fsencode(source) + b"/M\xfcller \xff")
    (source / "PHANTOM-002" / "notes \u00e9.txt").write_text("x")
    image = sorted((source / "PHANTOM-002").rglob("*.dcm"))[1]
    image.with_name("broken \u00fc.dcm").write_bytes(image.read_bytes()[:600])
    for more in ((), ("--keep-ids",)):
        command = [*COMMAND, *map(str, prepare(source, tmp_path / f"data{len(more)}", *more))]
        run = subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=300)
        assert run.returncode == 0, run.stderr
        assert b"Traceback" not in run.stderr
        assert len(Dataset(tmp_path / f"data{len(more)}").account.patients) == 3


def test_without_a_home_folder_only_the_key_is_needed(rdunet, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no entry"])
    one_line(rdunet(*prepare(DUMMY, tmp_path / "data")), "--key")
    assert rdunet(*prepare(DUMMY, tmp_path / "data", "--key", tmp_path / "key"))[0] == 0
    assert rdunet(*prepare(DUMMY, tmp_path / "kept", "--keep-ids"))[0] == 0


def test_a_cache_that_cannot_be_made_is_no_matter(rdunet, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert rdunet(*prepare(DUMMY, tmp_path / "data"))[0] == 0


def test_a_folder_without_ct_does_not_name_its_files(rdunet, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    image = sorted(DUMMY.rglob("*.dcm"))[1]
    (tmp_path / "source" / "CANARY.dcm").write_bytes(image.read_bytes()[:600])
    refused = rdunet(*prepare(tmp_path / "source", tmp_path / "data"))
    assert "CANARY" not in one_line(refused) + refused.out
    assert "CANARY" in rdunet(*prepare(tmp_path / "source", tmp_path / "data", "--keep-ids"))[2]


def test_a_folder_that_cannot_be_made_is_one_line(rdunet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    one_line(rdunet(*prepare(DUMMY, tmp_path / "file" / "data")), "name another --data-dir")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_pipeline.prepare import prepare_dataset
    from data_pipeline.settings import DatasetSettings, PrepareOptions

    data_dir = tmp_path_factory.mktemp("sound")
    prepare_dataset(DUMMY, data_dir, DatasetSettings(image_size=16), PrepareOptions(workers=1, keep_ids=True))
    return data_dir


def flip(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0x20]) + content[len(content) // 2 + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\xff\x00garbage",
    "another object": lambda content: b"{}",
    "a list": lambda content: b"[]",
    "a bit": flip,
}


def read_all(data_dir: Path) -> list[bytes]:
    data = Dataset(data_dir)
    found = [data.dataset_sha256.encode()]
    for split in ("train", "validation", "test"):
        found += [image.tobytes() + mask.tobytes() for image, mask in data.patches(split)]
        found += [one.name.encode() + one.image.tobytes() + one.ct_mask.tobytes() for one in data.patients(split)]
    batches = data.batches("train", batch_size=1, seed=0)
    return [*found, *(next(batches)["image"].tobytes() for _ in range(data.patch_count("train")))]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_or_no_matter(damage: str, sound: Path, tmp_path: Path) -> None:
    right = read_all(sound)
    for original in sorted(path for path in sound.rglob("*") if path.is_file()):
        data_dir = Path(shutil.copytree(sound, tmp_path / "data"))
        file = data_dir / original.relative_to(sound)
        content = DAMAGES[damage](file.read_bytes())
        file.unlink() if not content and damage == "empty" and original.suffix == ".json" else file.write_bytes(content)
        try:
            assert read_all(data_dir) == right, f"{file.name}: other data without a word"
        except InputError as error:
            assert "\n" not in str(error) and str(data_dir) in str(error)
            assert "rdunet prepare" in str(error)
        shutil.rmtree(data_dir)


def test_damage_through_a_command(rdunet, sound: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(sound, tmp_path / "data"))
    (record,) = data.rglob("*-train.array_record*")
    record.write_bytes(record.read_bytes()[:-100])
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", "--model", "tiny", "--batch-size", 1)
    one_line(rdunet(*train), "rdunet prepare")


def test_a_data_set_of_an_earlier_version_names_the_command(rdunet, sound: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(sound, tmp_path / "data"))
    (metadata,) = data.rglob("metadata.json")
    account = json.loads(metadata.read_text(encoding="utf-8"))
    account["settings"]["intensity"] = "keras"
    metadata.write_text(json.dumps(account), encoding="utf-8")
    metadata.with_name("checksums.json").unlink()  # which that version did not write
    (data / "nsclc_radiomics" / NAME).rename(data / "nsclc_radiomics" / "keras_16")
    train = ("train", "--data-dir", data, "--workdir", tmp_path / "run", "--model", "tiny", "--batch-size", 1)
    one_line(rdunet(*train), "slice_minmax was called keras", f"rdunet prepare SOURCE --data-dir {data}")
    one_line(
        rdunet("train", "--data-dir", sound, "--dataset", "keras_16", *train[3:]), "keras is now called slice_minmax"
    )


def test_patches_are_chosen_in_training_not_in_a_data_set(rdunet, sound: Path, tmp_path: Path) -> None:
    status, _, error = rdunet(*prepare(DUMMY, tmp_path / "data"), "--selection", "all")
    assert status == 2 and error.count("\n") == 1
    assert "rdunet train --data-dir DATA --workdir RUN --selection all" in error
    assert not (tmp_path / "data").exists()

    data = Path(shutil.copytree(sound, tmp_path / "old"))
    (metadata,) = data.rglob("metadata.json")
    account = json.loads(metadata.read_text(encoding="utf-8"))
    account["settings"]["selection"] = "all"  # as data sets of stored patches have it
    metadata.write_text(json.dumps(account), encoding="utf-8")
    metadata.with_name("checksums.json").unlink()  # which that version did not write
    status, _, error = rdunet("train", "--data-dir", data, "--workdir", tmp_path / "run", "--model", "tiny")
    assert status == 2 and error.count("\n") == 1 and "`rdunet train --selection` chooses them" in error
    assert f"rdunet prepare SOURCE --data-dir {data} --overwrite" in error


def test_a_full_disk_while_the_sample_is_written_is_one_line(rdunet, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("data_pipeline.sample_data._download", full)
    one_line(rdunet("sample-data", "--output", tmp_path / "sample"), "make room")
    assert not (tmp_path / "sample").exists()

"""Four real NSCLC patients in one command.

They are the Radiomics Digital Phantom of CancerData: CT series cropped around the tumour, each with an RTSTRUCT that
holds `GTV-1`. A wheel on the Python Package Index contains them as data files. pip downloads it with the user's index,
proxy and certificate settings. The wheel is then read as a zip file: nothing of it is installed or imported, and only
the DICOM files and their licence text are kept.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.files import atomic_folder, sha256_of

REQUIREMENT = "pycerr==2.5.1"
SHA256 = "5c3e82cc387538c5c38143827314fc2aa743ef886e8518f7f52beff6805c635d"
LICENCE_NOTICE = """\
Licence: Creative Commons Attribution-NonCommercial 3.0 (CC BY-NC 3.0), see README_LICENSE.txt beside the data.
Cite: Lambin P. Radiomics Digital Phantom, CancerData (2016), doi:10.17195/candat.2016.08.1
and: Lambin P, Leijenaar RT, Deist TM, et al. Radiomics: the bridge between medical imaging and personalized medicine.
Nature Reviews Clinical Oncology 2017;14(12):749."""

_MEMBER_FOLDER = "cerr/datasets/radiomics_phantom_dicom/"
# The whole of a name must match, so no absolute path, no "..", no code and no link target outside can get through.
_MEMBER_NAME = re.compile(r"pat_\d/\w+\.dcm|README_LICENSE\.txt", re.ASCII)
_CHECKSUMS = "SHA256SUMS"


def fetch_sample_data(
    output: Path, *, archive: Path | None = None, sha256: str = SHA256, console: Console | None = None
) -> list[Path]:
    """Download the four sample patients into the folder `output`, whole or not at all.

    The folder then holds `pat_1` ... `pat_4` (41 to 60 CT slices and one RTSTRUCT each, 13 MB in all), the licence
    text, and `SHA256SUMS` for `sha256sum --check`. A folder that already holds the complete sample is not changed. The
    caller must show `LICENCE_NOTICE`.

    Args:
        output: a folder that does not exist yet, is empty, or holds the complete sample.
        archive: the wheel, for a machine without network; otherwise pip downloads it.
        sha256: the hexadecimal SHA-256 that the wheel must have.
        console: where progress is shown; standard error by default.

    Returns:
        The patients' folders, in order.

    Raises:
        InputError: `output` holds something else, pip is missing or fails, the wheel is not the expected one, or the
            disk is full.
    """
    console = console or Console(stderr=True)
    if _is_complete(output):
        console.print(f"{output} already holds the complete sample", highlight=False)
        return _patients(output)
    with atomic_folder(output) as folder, tempfile.TemporaryDirectory() as downloads:
        if archive is None:
            with console.status(f"Downloading the sample patients with pip ({REQUIREMENT}, 26 MB)"):
                archive = _download(Path(downloads))
        with console.status("Checking and unpacking"):
            _verify(archive, sha256)
            _unpack(archive, folder)
    return _patients(output)


def _patients(output: Path) -> list[Path]:
    return sorted(path for path in output.glob("pat_*") if path.is_dir())


def _is_complete(output: Path) -> bool:
    """Whether every file that a finished run listed is there, unchanged."""
    try:
        lines = (output / _CHECKSUMS).read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
        return bool(listed) and all(
            _MEMBER_NAME.fullmatch(name) and sha256_of(output / name) == digest for name, digest in listed.items()
        )
    except (OSError, ValueError):
        return False


def _download(folder: Path) -> Path:
    options = "--no-deps --only-binary=:all: --ignore-requires-python --disable-pip-version-check --no-input --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), REQUIREMENT]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if run.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in run.stderr:
        raise InputError(f"{sys.executable}: has no pip, which downloads the sample; run it with `-m ensurepip` first")
    errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"exit status {run.returncode}"
    raise InputError(f"{REQUIREMENT}: pip could not download it ({reason}); check the network and `pip config list`")


def _verify(archive: Path, sha256: str) -> None:
    try:
        digest = sha256_of(archive)
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror}); name the wheel of {REQUIREMENT}") from error
    if digest != sha256:
        raise InputError(
            f"{archive.name}: SHA-256 is {digest}, not {sha256}; the file is damaged or another one, download it again"
        )


def _unpack(archive: Path, folder: Path) -> None:
    checksums = []
    try:
        with zipfile.ZipFile(archive) as wheel:
            for member in sorted(wheel.namelist()):
                name = member.removeprefix(_MEMBER_FOLDER)
                if not member.startswith(_MEMBER_FOLDER) or not _MEMBER_NAME.fullmatch(name):
                    continue
                content = wheel.read(member)
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
                checksums.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive.name}: is not a readable zip archive ({error}); download it again") from error
    if not checksums:
        raise InputError(f"{archive.name}: holds no {_MEMBER_FOLDER}; name the wheel of {REQUIREMENT}")
    (folder / _CHECKSUMS).write_text("\n".join(checksums) + "\n", encoding="utf-8")

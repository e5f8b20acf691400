"""Kills `prepare` at random moments, starts it again, and prints the hashes of what comes out, as JSON.

    python -m tests.data_pipeline.kill_prepare SOURCE FOLDER COUNT

Each attempt is a fork of this process, which has imported everything and runs no threads.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from data_pipeline.prepare import prepare_dataset
from data_pipeline.settings import DatasetSettings, PrepareOptions


def main(source: Path, folder: Path, count: int) -> None:
    started = time.perf_counter()
    hashes = [finish(source, folder / "whole")]
    seconds = time.perf_counter() - started
    generator, killed = random.Random(0), 0
    for number in range(count):
        data_dir = folder / f"{number}"
        child = begin(source, data_dir)
        time.sleep(generator.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        hashes.append(finish(source, data_dir))
        assert not list(data_dir.rglob("incomplete*")), "the next run clears away what was killed"
        shutil.rmtree(data_dir)
    print(json.dumps({"killed": killed, "finished": count - killed, "hashes": hashes}))


def finish(source: Path, data_dir: Path) -> str:
    """Prepares unless that is done; the data set's hash."""
    if not list(data_dir.glob("nsclc_radiomics/*/[0-9]*/report.json")):
        child = begin(source, data_dir)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (report,) = data_dir.glob("nsclc_radiomics/*/[0-9]*/report.json")
    return json.loads(report.read_text())["dataset_sha256"]


def begin(source: Path, data_dir: Path) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            prepare_dataset(source, data_dir, DatasetSettings(image_size=32), PrepareOptions(keep_ids=True, workers=1))
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    return child


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

#!/usr/bin/env python3
"""Checks that every pin of constraints.txt has a wheel for each Python and platform that the README names.

    python .ci/check_pins.py                 # in an environment with all extras to be checked installed
    python .ci/check_pins.py --extras tensorflow beam

It reads which packages an extra needs from what is installed, with the markers of each target, and asks pip for a
wheel of each pin (`pip install --dry-run --only-binary=:all: --no-deps`): nothing is installed, little is downloaded.
Packages in `PURE_SOURCE` publish no wheel, but their source archive is pure Python and installs anywhere. Ends with
status 1 if a wheel is missing.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "rdunet-jax"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = ("dev", "docs")
PURE_SOURCE = {"promise"}
"""Without a wheel on the index; `promise` comes with tensorflow-datasets."""


def manylinux(machine: str) -> list[str]:
    """Tags of wheels for glibc 2.31 (Debian 11, Ubuntu 20.04) and newer."""
    newest_first = [f"manylinux_2_{minor}_{machine}" for minor in (31, 28, 27, 26, 24, 17, 12, 5)]
    return [*newest_first, f"manylinux2014_{machine}"]


PLATFORMS = {
    "Linux x86-64": (manylinux("x86_64"), {"sys_platform": "linux", "platform_machine": "x86_64"}),
    "Linux arm64": (manylinux("aarch64"), {"sys_platform": "linux", "platform_machine": "aarch64"}),
    "macOS arm64": (["macosx_14_0_arm64"], {"sys_platform": "darwin", "platform_machine": "arm64"}),
}
SYSTEMS = {"linux": "Linux", "darwin": "Darwin"}


def environment(python: str, markers: dict[str, str]) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "platform_system": SYSTEMS[markers["sys_platform"]],
    } | markers


def project(extra: str) -> list[str]:
    """The project's own requirements: of its core, or of an extra."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table["optional-dependencies"][extra] if extra else table["dependencies"]


def needed(extras: tuple[str, ...], target: dict[str, str]) -> set[str]:
    """Names of all packages that the project with these extras brings on a target."""
    found: set[str] = set()
    waiting = [(PROJECT, extra) for extra in ("", *extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        try:
            lines = project(extra) if name == PROJECT else requires(name) or ()
        except PackageNotFoundError:  # for another platform only, such as a backport
            continue
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(target | {"extra": extra}):
                other = canonicalize_name(requirement.name)
                waiting += [(other, one) for one in ("", *requirement.extras)]
    return found - {PROJECT}


def pins(target: dict[str, str]) -> dict[str, str]:
    """Version of each package that constraints.txt gives for a target."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(one.name): str(one.specifier)
        for one in found
        if one.marker is None or one.marker.evaluate(target | {"extra": ""})
    }


def without_wheel(requirements: list[str], python: str, tags: list[str]) -> list[str]:
    """Those of the requirements for which pip finds no wheel; asked again after each that it names."""
    missing, left = [], sorted(requirements)
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--ignore-installed", "--python-version", python]
    for tag in tags:
        command += ["--platform", tag]
    with tempfile.TemporaryDirectory() as folder:
        while left:
            done = subprocess.run([*command, "--target", folder, *left], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            name = re.search(r"No matching distribution found for (\S+)", done.stderr)
            if name is None:
                raise SystemExit(f"error: pip failed otherwise: {done.stderr.strip()[-500:]}")
            missing.append(name[1])
            left.remove(name[1])
    return missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=EXTRAS, help="extras checked beside the core")
    parser.add_argument("--pythons", nargs="*", default=PYTHONS, help="versions of Python")
    arguments = parser.parse_args()
    bad = False
    for platform, (tags, markers) in PLATFORMS.items():
        for python in arguments.pythons:
            target = environment(python, markers)
            names, pinned = needed(tuple(arguments.extras), target), pins(target)
            unpinned = sorted(names - set(pinned))
            asked = [f"{name}{pinned[name]}" for name in names & set(pinned) - PURE_SOURCE]
            missing = without_wheel(asked, python, tags)
            bad |= bool(missing or unpinned)
            state = "ok" if not missing and not unpinned else f"no wheel: {missing}, no pin: {unpinned}"
            print(f"{platform}, Python {python}: {len(asked)} pins, {state}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

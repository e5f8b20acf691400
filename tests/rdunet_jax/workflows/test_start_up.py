"""What a command does before it does anything: imports, and where compiled programs go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("jax", "numpy", "flax", "pydicom", "matplotlib", "data_pipeline.contours.rtstruct")
HELP = f"""
import sys
from rdunet_jax.cli.main import main
sys.argv = ["rdunet", "--help"]
try:
    main()
except SystemExit:
    print([name for name in {HEAVY} if name in sys.modules])
"""
CACHE = """
import sys
from rdunet_jax.cli.main import main
sys.argv = ["rdunet", "models", "tiny", "--image-size", "16"]
main()
import jax
print(jax.config.jax_compilation_cache_dir)
"""


def last_line(code: str, **variables: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=inherited | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_help_imports_nothing_that_takes_time() -> None:
    assert last_line(HELP) == "[]"


@pytest.mark.parametrize(
    "variables, folder",
    [
        ({"XDG_CACHE_HOME": "{tmp}/cache"}, "{tmp}/cache/rdunet/jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "{tmp}"}, "{tmp}/.cache/rdunet/jax"),
        ({"XDG_CACHE_HOME": "{tmp}/cache", "JAX_COMPILATION_CACHE_DIR": "{tmp}/mine"}, "{tmp}/mine"),
    ],
)
def test_compiled_programs_are_kept_in_the_users_cache(variables, folder, tmp_path: Path) -> None:
    filled = {name: value.format(tmp=tmp_path) for name, value in variables.items()}
    assert last_line(CACHE, **filled) == folder.format(tmp=tmp_path)

"""What a command does before it does anything: imports, and where compiled programs go."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rdunet_jax.workflows.start_up import mistakes_in_one_line

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


MODELS = ["models", "tiny", "--image-size", "16"]
WITHOUT_HOME = """
import os, pwd, sys
def missing(*arguments):
    raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = missing
from rdunet_jax.cli.main import main
sys.argv = ["rdunet", *sys.argv[1:]]
main()
"""


def run(*arguments: str, code: str = "from rdunet_jax.cli.main import main; main()", shell: str = "", **variables: str):
    """A command in a process of its own, with nothing of ours in its environment but `variables`."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | variables
    command = [sys.executable, "-c", code, *arguments]
    if shell:
        command = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], MODELS])
@pytest.mark.parametrize(
    "surrounding",
    [
        {"code": WITHOUT_HOME},
        {"HOME": "/proc/nowhere"},
        {"XDG_CACHE_HOME": "/proc/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"JAX_COMPILATION_CACHE_DIR": "/dev/null/file", "PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii", "TERM": "dumb"},
        {"shell": "2>&-"},
        {"shell": "2>/dev/full"},
    ],
    ids=["no home", "home cannot be made", "C", "Latin-1", "ASCII", "no stderr", "full stderr"],
)
def test_commands_do_not_depend_on_where_they_run(arguments: list[str], surrounding: dict[str, str]) -> None:
    done = run(*arguments, **surrounding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rdunet" in done.stdout or "tiny" in done.stdout


def test_a_reader_that_ends_early_is_no_error() -> None:
    done = run("train", "--help", shell="| head -n 1")
    assert done.stderr == "" and done.stdout.startswith("usage: rdunet train") and done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "shell, arguments, status, error",
    [
        ("> /dev/full", ["--help"], 2, "error: No space left on device\n"),
        (">&-", ["--help"], 0, ""),
        ("2> /dev/full", ["train"], 2, ""),
        ("2>&-", ["train"], 2, ""),
    ],
)
def test_streams_that_cannot_be_written(shell: str, arguments: list[str], status: int, error: str) -> None:
    done = run(*arguments, shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", error)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv.pop(1)) << 20,) * 2)
from rdunet_jax.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("mib", "arguments"),
    [
        (400, MODELS),
        (900, ["prepare", "source", "--data-dir", "data"]),
        (3000, ["evaluate", "--data-dir", "data", "--workdir", "run"]),
    ],
)
def test_too_little_memory_is_one_line(mib: int, arguments: list[str]) -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    done = run(str(mib), *arguments, code=LIMITED)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "not enough memory: rdunet" in done.stderr


def test_help_needs_little_memory() -> None:
    assert run("400", "--help", code=LIMITED).returncode == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 GiB"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    ],
)
def test_memory_that_ends_later_is_one_line(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), mistakes_in_one_line(""):
        try:
            raise error
        except Exception as cause:
            raise (error if isinstance(error, MemoryError | ImportError) else ValueError("a layer above")) from cause
    printed = capfd.readouterr().err
    assert printed.startswith("error: not enough memory") and printed.count("\n") == 1


def test_messages_are_one_printable_line() -> None:
    done = run("models", "a\nb\x1b[31mc")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr


def test_a_damaged_stored_program_is_replaced(tmp_path: Path) -> None:
    code = """
from rdunet_jax.workflows.start_up import prepare_jax
prepare_jax()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x * 3)(14))
"""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    assert run(code=code, **cache).stdout == "42\n"
    entries = {path: path.stat().st_size for path in tmp_path.glob("*-cache")}
    assert entries
    for path in entries:
        path.write_bytes(b"damaged")
    done = run(code=code, **cache)
    assert (done.stdout, done.stderr) == ("42\n", "")
    for path, size in entries.items():
        assert path.stat().st_size > size / 2

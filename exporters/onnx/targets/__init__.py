"""The targets: what graphs are written for, one file each."""

from exporters.onnx.context import Target
from exporters.onnx.targets.cpu import CPU
from exporters.onnx.targets.cuda import CUDA, CUDA_PACKED
from exporters.onnx.targets.portable import PORTABLE

TARGETS: dict[str, Target] = {target.name: target for target in (PORTABLE, CPU, CUDA, CUDA_PACKED)}

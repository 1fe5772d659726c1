"""Names of targets and dtypes, as `exporters` has them, without importing torch."""

TARGETS = ("auto", "portable", "cpu", "cuda", "cuda-packed")
TIMED_TARGETS = TARGETS[:-1]
DTYPES = ("fp32", "fp16", "int8")
FLOAT_DTYPES = ("fp32", "fp16")

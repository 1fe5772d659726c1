"""The export of a checkpoint by optimum-cli:

`python -m prune_export.benchmark.optimum_export MODEL OUTPUT TASK PROVIDER DTYPE`
"""

from __future__ import annotations

import sys


def main() -> None:
    # optimum lets config.json choose the attention, and transformers fetches flash attention's code where this is there.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    from optimum.exporters.onnx import main_export

    from exporters.providers import find_provider
    from prune_export.checkpoint.remote_code import no_remote_code

    model, output, task, provider, dtype = sys.argv[1:]
    # do_validation: it compares at the end, and is not what is measured. The graph is the same.
    chosen = find_provider(provider)
    on_gpu = {"device": chosen.device, "dtype": dtype} if chosen.is_gpu else {}
    with no_remote_code():
        main_export(model, output=output, task=task, do_validation=False, local_files_only=True, **on_gpu)


if __name__ == "__main__":
    main()

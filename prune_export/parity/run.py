"""The whole comparison of candidates with the reference model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from exporters.encoder import Encoder
from exporters.providers import PROVIDERS
from prune_export.network.opening import Network, torch_runner
from prune_export.parity.budget import SMALL
from prune_export.parity.check import Runner, compare
from prune_export.parity.quality import judge
from prune_export.parity.reference import Reference, interface, reference_name
from prune_export.parity.tolerance import TOLERANCES, Tolerance
from prune_export.parity.verdict import ParityReport
from prune_export.progress import Progress
from prune_export.tasks import SPECS

# What is compared with the reference model.
ONNX_COMPARISON = "ONNX"

SLIM_COMPARISON = "slim PyTorch"


def run_parity(
    reference: Reference,
    candidates: Mapping[str, tuple[Runner, Tolerance]],
    *,
    provider: str,
    padding: bool,
    progress: Progress,
) -> ParityReport:
    """Compares `candidates` with `reference`; the first one's tolerance is the report's, and its quality is judged.

    The other candidates see only the small cases of a budget. Without `padding`, only values of real tokens are compared.
    """
    checkpoint, encoder = reference.checkpoint, reference.checkpoint.encoder
    progress.stage("Comparing with PyTorch", reference.count)
    compared = partial(compare, spec=SPECS[encoder.task], padding=padding, roundings=reference.roundings)
    name, (run, tolerance) = next(iter(candidates.items()))
    if reference.thorough:
        results = compared(reference.answered(), candidates, progress=progress.advance)
    else:
        results = compared(reference.answered(), {name: candidates[name]}, progress=progress.advance)
        small = [(case, outputs) for case, outputs in reference.answered() if case.tokens <= SMALL]
        results += compared(small, {other: candidates[other] for other in candidates if other != name})
    quality = None
    if reference.goal is not None and reference.result is not None:
        network = Network(name, "onnx", encoder.task, *interface(checkpoint), run)
        quality = judge(reference.goal, reference.result, network, provider=provider, progress=progress)
    thorough, longest, limit = reference.thorough, reference.longest, encoder.embeddings.max_length
    return ParityReport(
        results,
        tolerance,
        PROVIDERS[provider].onnxruntime,
        reference.seed,
        thorough,
        longest,
        limit,
        quality,
        reference_name(checkpoint),
    )


def slim_candidate(slim: nn.Module, encoder: Encoder) -> tuple[Runner, Tolerance]:
    """Returns the slim PyTorch network as a candidate for `run_parity`."""
    return torch_runner(slim, encoder.inputs, encoder.outputs), TOLERANCES["slim"]

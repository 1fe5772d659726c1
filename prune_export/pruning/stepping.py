"""Prunes a network that has been read: score, select, rearrange, cut, reconstruct; for far budgets in several steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from exporters.encoder import Encoder
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.options.prune import PruningMethod
from prune_export.progress import SILENT, Progress
from prune_export.pruning.budget import Budget, ladder
from prune_export.pruning.calibration import Calibration
from prune_export.pruning.costs import Costs, counts_of
from prune_export.pruning.cutting import Pruned, cut, unpruned
from prune_export.pruning.gates import hugging_face_layers, slim_layers
from prune_export.pruning.rearrangement import rearrange
from prune_export.pruning.reconstruction.layerwise import BlockFit, reconstruct
from prune_export.pruning.scores import (
    LayerGradients,
    LayerScores,
    chance,
    fisher,
    gate_gradients,
    magnitude,
    taylor,
)
from prune_export.pruning.selection import Kept, Rules, least_cost, select, select_counts
from prune_export.slim_model.model import module_of

_WITH_GRADIENTS = ("fisher", "taylor")
_LEAST_TO_HALVE = 8


class Settings(PruningMethod):
    """How to prune one network.

    `rearrangement` needs gradients (fisher, taylor); `gradual` needs them and full reconstruction.
    """

    rules: Rules = field(default_factory=Rules)
    seed: int = 0

    @classmethod
    def of(cls, method: PruningMethod, *, rules: Rules, seed: int) -> Settings:
        """Returns the settings that prune by `method`."""
        return cls(**{part.name: getattr(method, part.name) for part in fields(PruningMethod)}, rules=rules, seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of the ladder: the network after it, the scores that chose it and the fits that followed."""

    fraction: float
    network: Pruned
    scores: tuple[LayerScores, ...]
    kept: Kept
    fits: tuple[BlockFit, ...]

    def held_out_errors(self) -> list[dict[str, Any]]:
        """Return the fits as they are recorded."""
        return [{"layer": fit.layer, "part": fit.part, "before": fit.before, "after": fit.after} for fit in self.fits]


class Pruner:
    """Prunes one network to any number of budgets from one calibration pass; steps that several share are made once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        calibration: Calibration,
        settings: Settings,
        *,
        gradients: tuple[LayerGradients, ...] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """`gradients` are what `gate_gradients` gave for the unpruned network and this calibration, where they are known."""
        self.checkpoint, self.calibration, self.settings, self.progress = checkpoint, calibration, settings, progress
        # Steps on the way only prepare the last one: half of the (shuffled) batches will do, if some can be held out.
        enough = len(calibration.batches) >= _LEAST_TO_HALVE
        self._half = calibration.batches[::2] if enough else calibration.batches
        self._start = unpruned(checkpoint.encoder)
        self._steps: dict[tuple[Any, ...], Step] = {}
        self._gradients = {} if gradients is None else {id(self._start): gradients}

    def check(self, budget: Budget, costs: Costs, fraction: float) -> None:
        """Before anything takes time: whether the budget can be met.

        Raises:
            UsageError: it cannot; the message says what can.
        """
        self._select(self._start, None, budget, costs, fraction)

    def prune(self, budget: Budget, costs: Costs, fraction: float) -> tuple[Step, ...]:
        """All steps to `fraction` of the unpruned cost (for "units": of the scarcer kind), the last of them the result.

        Raises:
            UsageError: the budget cannot be met.
        """
        gradual = (
            self.settings.gradual and self.settings.reconstruction == "full" and self.settings.method in _WITH_GRADIENTS
        )
        self.check(budget, costs, fraction)
        steps: list[Step] = []
        network = self._start
        for rung in ladder(fraction, gradual=gradual):
            last = rung == fraction
            key = (budget.kind, rung, budget.value if budget.kind == "units" else None, budget.columns, last)
            if key not in self._steps:
                self._steps[key] = self._step(network, budget, costs, rung, last=last)
            steps.append(self._steps[key])
            network = steps[-1].network
        return tuple(steps)

    def least(self, costs: Costs) -> float:
        """The least that can be left, in the unit of `costs`."""
        return least_cost(magnitude(self._start.encoder), costs, self.settings.rules)

    def _step(self, network: Pruned, budget: Budget, costs: Costs, fraction: float, *, last: bool) -> Step:
        scores, gradients = self._scores(network)
        return prune_step(
            network,
            self.checkpoint.encoder,
            scores,
            gradients,
            self._select(network, scores, budget, costs, fraction),
            self.calibration.batches if last else self._half,
            fraction=fraction,
            settings=self.settings,
            progress=self.progress,
        )

    def _select(
        self, network: Pruned, scores: tuple[LayerScores, ...] | None, budget: Budget, costs: Costs, fraction: float
    ) -> Kept:
        scores = magnitude(network.encoder) if scores is None else scores
        rules = self.settings.rules
        if budget.kind == "units":
            counts = counts_of(self.checkpoint.encoder)
            heads, columns = (sum(pair[kind] for pair in counts) for kind in (0, 1))
            least = min(budget.value, budget.columns)
            kept_heads, kept_columns = (
                value if fraction <= least else max(value, fraction) for value in (budget.value, budget.columns)
            )
            return select_counts(scores, round(heads * kept_heads), round(columns * kept_columns), rules)
        return select(scores, costs, fraction * costs.dense, rules)

    def _scores(self, network: Pruned) -> tuple[tuple[LayerScores, ...], tuple[LayerGradients, ...] | None]:
        match self.settings.method:
            case "fisher":
                gradients = self._gradients_of(network)
                return fisher(gradients), gradients
            case "taylor":
                gradients = self._gradients_of(network)
                return taylor(gradients), gradients
            case "magnitude":
                return magnitude(network.encoder), None
            case "random":
                return chance(network.encoder, seed=self.settings.seed), None

    def gradients(self) -> tuple[LayerGradients, ...]:
        """What the unpruned network is scored by."""
        return self._gradients_of(self._start)

    def _gradients_of(self, network: Pruned) -> tuple[LayerGradients, ...]:
        """The unpruned network is the untouched Hugging Face model; later ones are slim, which costs less."""
        if id(network) in self._gradients:
            return self._gradients[id(network)]
        batches = self.calibration.batches if network is self._start else self._half
        self.progress.stage("Scoring heads and columns", sum(len(batch["input_ids"]) for batch in batches))
        encoder = network.encoder
        if network is self._start:
            model: nn.Module = load_reference_model(self.checkpoint)
            layers = hugging_face_layers(self.checkpoint, model)
        else:
            slim = module_of(self.checkpoint, encoder)
            model, layers = slim, slim_layers(slim)
        found = gate_gradients(
            model,
            layers,
            encoder.task,
            encoder.inputs,
            batches,
            seed=self.settings.seed,
            device=self.settings.device,
            progress=self.progress,
        )
        self._gradients[id(network)] = found
        return found


def prune_step(
    network: Pruned,
    reference: Encoder,
    scores: tuple[LayerScores, ...],
    gradients: tuple[LayerGradients, ...] | None,
    kept: Kept,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    fraction: float,
    settings: Settings,
    progress: Progress = SILENT,
) -> Step:
    """Prune `network` to the units `kept`, which `scores` chose for `fraction` of the cost.

    Exchanges pairs of units first, if the settings ask for it and `gradients` are there. Reconstruction then brings the
    outputs for `batches` near to those of `reference`.
    """
    if gradients is not None and settings.rearrangement:
        progress.stage("Rearranging", len(kept))
        rearranged = []
        for layer, (heads, columns) in zip(gradients, kept, strict=True):
            rearranged.append((rearrange(layer.heads, heads), rearrange(layer.columns, columns)))
            progress.advance()
        kept = tuple(rearranged)
    smaller = cut(network, kept)
    progress.stage(f"Reconstructing at {fraction:.3g}", len(smaller.encoder.layers))
    encoder, fits = reconstruct(
        reference,
        smaller.encoder,
        batches,
        method=settings.reconstruction,
        device=settings.device,
        progress=progress,
    )
    return Step(fraction, Pruned(encoder, smaller.heads, smaller.columns), scores, kept, fits)

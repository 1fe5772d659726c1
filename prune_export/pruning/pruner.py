"""Prunes a loaded network: scores, selects, rearranges, removes, reconstructs; in several steps for far budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from torch import Tensor, nn

from exporters.encoder import Encoder
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.options.prune import PruningMethod
from prune_export.progress import SILENT, Progress
from prune_export.pruning.budget import Budget, target_fractions
from prune_export.pruning.calibration import Calibration
from prune_export.pruning.costs import Costs, counts_of
from prune_export.pruning.gates import GatedLayer, hugging_face_layers, slim_layers
from prune_export.pruning.obs import block_moments, obs_scores
from prune_export.pruning.pruned_network import PrunedNetwork, keep_units, unpruned
from prune_export.pruning.rearrangement import rearrange
from prune_export.pruning.reconstruction.layerwise import BlockFit, reconstruct
from prune_export.pruning.scores import (
    LayerGradients,
    LayerScores,
    fisher_scores,
    gate_gradients,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from prune_export.pruning.selection import Kept, Rules, least_cost, select, select_counts
from prune_export.slim_model.model import slim_module

T = TypeVar("T")

_WITH_GRADIENTS = ("fisher", "taylor")
_LEAST_TO_HALVE = 8  # batches


class PrunerSettings(PruningMethod):
    """How to prune one network.

    `rearrangement` needs gradients (fisher, taylor); `gradual` needs them and full reconstruction.
    """

    rules: Rules = field(default_factory=Rules)
    seed: int = 0

    @classmethod
    def of(cls, method: PruningMethod, *, rules: Rules, seed: int) -> PrunerSettings:
        """Returns the settings that prune by `method`."""
        given = {option.name: getattr(method, option.name) for option in fields(PruningMethod)}
        return cls(**given, rules=rules, seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class PruningStep:
    """One step of pruning, to `fraction` of the cost: the scores, the units `kept` by them, the fits, and the network."""

    fraction: float
    network: PrunedNetwork
    scores: tuple[LayerScores, ...]
    kept: Kept
    fits: tuple[BlockFit, ...]

    def held_out_errors(self) -> list[dict[str, Any]]:
        """Returns the fits as they are recorded."""
        return [{"layer": fit.layer, "part": fit.part, "before": fit.before, "after": fit.after} for fit in self.fits]


class Pruner:
    """Prunes one network to any number of budgets; steps that budgets share are made once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        calibration: Calibration,
        settings: PrunerSettings,
        *,
        gradients: tuple[LayerGradients, ...] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Takes over `gradients`, those that `gate_gradients` gave for the unpruned network, where they are known."""
        self.checkpoint, self.calibration, self.settings, self.progress = checkpoint, calibration, settings, progress
        # Intermediate steps only prepare the last one: half of the (shuffled) batches will do, if some can be held out.
        enough = len(calibration.batches) >= _LEAST_TO_HALVE
        self._half = calibration.batches[::2] if enough else calibration.batches
        self._start = unpruned(checkpoint.encoder)
        self._steps: dict[tuple[Any, ...], PruningStep] = {}
        self._gradients = {} if gradients is None else {id(self._start): gradients}

    def check(self, budget: Budget, costs: Costs, fraction: float) -> None:
        """Checks that the budget can be met, which takes no time.

        Raises:
            UsageError: it cannot; the message says what can.
        """
        self._select(self._start, None, budget, costs, fraction)

    def prune(self, budget: Budget, costs: Costs, fraction: float) -> tuple[PruningStep, ...]:
        """Prunes to `fraction` of the unpruned cost; for "units" it is that of the kind of which less is kept.

        Returns:
            All steps; the last one is the result.

        Raises:
            UsageError: the budget cannot be met.
        """
        gradual = (
            self.settings.gradual and self.settings.reconstruction == "full" and self.settings.method in _WITH_GRADIENTS
        )
        self.check(budget, costs, fraction)
        steps: list[PruningStep] = []
        network = self._start
        for target in target_fractions(fraction, gradual=gradual):
            last = target == fraction
            key = (budget.kind, target, budget.value if budget.kind == "units" else None, budget.columns, last)
            if key not in self._steps:
                self._steps[key] = self._step(network, budget, costs, target, last=last)
            steps.append(self._steps[key])
            network = steps[-1].network
        return tuple(steps)

    def least_cost(self, costs: Costs) -> float:
        """Returns the cost of the smallest network that the rules allow, in the unit of `costs`."""
        return least_cost(magnitude_scores(self._start.encoder), costs, self.settings.rules)

    def _step(
        self, network: PrunedNetwork, budget: Budget, costs: Costs, fraction: float, *, last: bool
    ) -> PruningStep:
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
        self,
        network: PrunedNetwork,
        scores: tuple[LayerScores, ...] | None,
        budget: Budget,
        costs: Costs,
        fraction: float,
    ) -> Kept:
        scores = magnitude_scores(network.encoder) if scores is None else scores
        rules = self.settings.rules
        if budget.kind == "units":
            counts = counts_of(self.checkpoint.encoder)
            heads, columns = sum(of_layer[0] for of_layer in counts), sum(of_layer[1] for of_layer in counts)
            smaller = min(budget.value, budget.columns)
            kept_heads, kept_columns = (
                value if fraction <= smaller else max(value, fraction) for value in (budget.value, budget.columns)
            )
            return select_counts(scores, round(heads * kept_heads), round(columns * kept_columns), rules)
        return select(scores, costs, fraction * costs.dense, rules)

    def _scores(self, network: PrunedNetwork) -> tuple[tuple[LayerScores, ...], tuple[LayerGradients, ...] | None]:
        match self.settings.method:
            case "obs":
                return obs_scores(network.encoder, self._measured(network, block_moments)), None
            case "fisher":
                gradients = self._gradients_of(network)
                return fisher_scores(gradients), gradients
            case "taylor":
                gradients = self._gradients_of(network)
                return taylor_scores(gradients), gradients
            case "magnitude":
                return magnitude_scores(network.encoder), None
            case "random":
                return random_scores(network.encoder, seed=self.settings.seed), None

    def gradients(self) -> tuple[LayerGradients, ...]:
        """Returns the gradients of the unpruned network's gates."""
        return self._gradients_of(self._start)

    def _gradients_of(self, network: PrunedNetwork) -> tuple[LayerGradients, ...]:
        """Returns the gradients of `network`'s gates.

        The unpruned network runs as the untouched Hugging Face model, pruned ones as slim networks, which takes less time.
        """
        if id(network) not in self._gradients:
            self._gradients[id(network)] = self._measured(network, gate_gradients)
        return self._gradients[id(network)]

    def _measured(self, network: PrunedNetwork, measure: Callable[..., T]) -> T:
        """Returns what `measure` (`gate_gradients`, `block_moments`) gives for `network`."""
        batches = self.calibration.batches if network is self._start else self._half
        self.progress.stage("Scoring heads and columns", sum(len(batch["input_ids"]) for batch in batches))
        encoder = network.encoder
        model: nn.Module
        layers: tuple[GatedLayer, ...]
        if network is self._start:
            model = load_reference_model(self.checkpoint)
            layers = hugging_face_layers(self.checkpoint, model)
        else:
            model = slim_module(self.checkpoint, encoder)
            layers = slim_layers(model)
        return measure(
            model,
            layers,
            encoder.task,
            encoder.inputs,
            batches,
            seed=self.settings.seed,
            device=self.settings.device,
            progress=self.progress,
        )


def prune_step(
    network: PrunedNetwork,
    reference: Encoder,
    scores: tuple[LayerScores, ...],
    gradients: tuple[LayerGradients, ...] | None,
    kept: Kept,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    fraction: float,
    settings: PrunerSettings,
    progress: Progress = SILENT,
) -> PruningStep:
    """Prunes `network` to the units `kept`, which `scores` chose for `fraction` of the cost.

    Units are rearranged first if `settings` say so and `gradients` are given. Reconstruction then brings the outputs for
    `batches` near to those of `reference`.
    """
    if gradients is not None and settings.rearrangement:
        progress.stage("Rearranging", len(kept))
        rearranged = []
        for layer, (heads, columns) in zip(gradients, kept, strict=True):
            rearranged.append((rearrange(layer.heads, heads), rearrange(layer.columns, columns)))
            progress.advance()
        kept = tuple(rearranged)
    smaller = keep_units(network, kept)
    progress.stage(f"Reconstructing at {fraction:.3g}", len(smaller.encoder.layers))
    encoder, fits = reconstruct(
        reference,
        smaller.encoder,
        batches,
        method=settings.reconstruction,
        device=settings.device,
        progress=progress,
    )
    return PruningStep(fraction, PrunedNetwork(encoder, smaller.heads, smaller.columns), scores, kept, fits)

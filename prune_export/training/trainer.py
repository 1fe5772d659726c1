"""The Hugging Face Trainer with a method's masks and an objective's loss."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import safe_globals
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from exporters.errors import CheckpointError, OutputError, PruneExportError, TrainingError
from prune_export.facts.file_names import SAFETENSORS
from prune_export.files.tensors import save_tensors
from prune_export.files.writing import sync_files
from prune_export.outputs.run import COMPLETE, remove_checkpoint
from prune_export.training.arguments import refusals
from prune_export.training.checkpoints import checkpoint_step, checkpoints, last_checkpoint
from prune_export.training.sampler import TrainingSampler
from prune_export.training.stage import MaskingMethod, Objective, ParameterGroup


class PruningTrainer(Trainer):
    """Minimises the task's loss, or that of an objective, and the method's penalty.

    The method's parameters have learning rates of their own. With `lengths`, the examples' lengths in tokens, examples of
    similar length share a batch. `train` raises TrainingError at the first step whose loss or gradient is not a number.
    """

    def __init__(
        self,
        *,
        method: MaskingMethod | None,
        objective: Objective | None,
        lengths: Sequence[int] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.method: MaskingMethod | None = method
        self.objective: Objective | None = objective
        self.network: nn.Module = arguments["model"]  # without the wrapper for several processes
        self.model_accepts_loss_kwargs = False  # losses here are means: accumulated batches are averaged
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.args.device))
        self._batches = 0
        self._groups: list[ParameterGroup] = []
        self._constant: list[bool] = []
        self._kept_checkpoints = self.args.save_total_limit
        self.args.save_total_limit = None  # we remove them ourselves
        settings = self.args
        self._sampler = TrainingSampler(
            len(arguments["train_dataset"]),
            step=settings.per_device_train_batch_size * settings.gradient_accumulation_steps * settings.world_size,
            seed=settings.seed,
            lengths=lengths,
        )

    @property
    def shards_parameters(self) -> bool:
        """Says whether each process holds only a shard of every parameter (FSDP, DeepSpeed ZeRO-3)."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return bool(self.is_fsdp_enabled) or (plugin is not None and plugin.zero_stage == 3)

    @property
    def has_foreign_optimiser(self) -> bool:
        """Says whether DeepSpeed's own configuration chooses the optimiser."""
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        return plugin is not None and "optimizer" in plugin.deepspeed_config

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """Returns the loss of a batch, a scalar in float32."""
        outputs = model(**inputs)
        task_loss = outputs["loss"] if isinstance(outputs, dict) else outputs.loss
        loss, parts = task_loss, {"task": task_loss}
        if self.objective is not None:
            with self.accelerator.autocast():  # the teacher computes in the network's dtype
                loss, more = self.objective.loss(task_loss, outputs, inputs)
            parts |= more
        if self.method is not None:
            penalty = self.method.penalty()
            loss = loss + penalty
            parts["penalty"] = penalty
        if not torch.isfinite(loss):
            self._stop("loss", parts)
        for name, value in parts.items():
            self._sums[name] += value.detach().float()
        self._batches += 1
        return (loss, outputs) if return_outputs else loss

    def _stop(self, quantity: str, parts: dict[str, Tensor]) -> None:
        values = ", ".join(f"{name} {float(value.detach()):g}" for name, value in parts.items())
        raise TrainingError(
            f"step {self.state.global_step + 1} of {self.state.max_steps}: the {quantity} is not a number"
            + (f" ({values})" if values else "")
        )

    def check_gradients(self) -> None:
        """Checks that all gradients are finite: a step with others would spoil every weight.

        Raises:
            TrainingError: one is not.
        """
        if self.args.fp16:  # the gradient scaler skips such steps by itself
            return
        gradients = {n: p.grad for n, p in self.network.named_parameters() if p.grad is not None}
        if not gradients:
            return
        fine = torch.stack([gradient.sum() for gradient in gradients.values()]).isfinite().tolist()
        wrong = [name for name, is_fine in zip(gradients, fine, strict=True) if not is_fine]
        if wrong:  # clipping makes all of them what one is
            self._stop(f"gradient of {wrong[0]}" if len(wrong) < len(fine) else "gradient", {})

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch to the sampler, which some versions of transformers and accelerate do not."""
        self._sampler.set_epoch(epoch)

    def get_train_dataloader(self) -> Any:
        """Returns the loader of the batches."""
        with refusals():
            return super().get_train_dataloader()

    def _get_train_sampler(self, *_: Any) -> TrainingSampler:
        return self._sampler

    # --- optimiser ------------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Makes the optimiser: weights with decay, biases and norms without, then the method's groups."""
        if self.optimizer is None:
            self._groups = [] if self.method is None else self.method.parameter_groups()
            special = {id(parameter) for group in self._groups for parameter in group.parameters}
            weights: list[nn.Parameter] = []
            others: list[nn.Parameter] = []
            for name, parameter in (model or self.network).named_parameters():
                if parameter.requires_grad and id(parameter) not in special:
                    # A table of biases, such as MPNet's by distance, has two dimensions.
                    (weights if parameter.ndim > 1 and "bias" not in name else others).append(parameter)
            groups: list[dict[str, Any]] = [
                {"params": weights, "weight_decay": self.args.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
            for group in self._groups:
                rates = {"lr": group.learning_rate, "weight_decay": group.weight_decay, "maximize": group.maximize}
                groups.append({"params": list(group.parameters), **rates})
            with refusals():
                kind, options = self.get_optimizer_cls_and_kwargs(self.args)
                self.optimizer = kind([group for group in groups if group["params"]], **options)
            self._constant = [group.constant_rate for group in self._groups if group.parameters]
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Makes the recipe's schedule of learning rates; those of groups with `constant_rate` do not change."""
        with refusals():
            scheduler = super().create_scheduler(num_training_steps, optimizer)
        if any(self._constant):
            rates: Any = scheduler
            for number, constant in enumerate(reversed(self._constant), 1):
                if constant:
                    rates.lr_lambdas[-number] = _unchanged
            for group, initial, rate in zip(
                rates.optimizer.param_groups, rates.base_lrs, rates.lr_lambdas, strict=True
            ):
                group["lr"] = initial * rate(0)
        return scheduler

    # --- resuming: pickles in a checkpoint are read as numbers, and no code in them is run -----------------------------

    def _load_rng_state(self, checkpoint: Any) -> None:
        with _reading(checkpoint), safe_globals():
            for path in Path(checkpoint or "").glob("rng_state*.pth"):
                # transformers 4 leaves weights_only to an environment variable.
                torch.load(path, map_location="cpu", weights_only=True)
            super()._load_rng_state(checkpoint)  # type: ignore[no-untyped-call]

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        with _reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[no-untyped-call]

    def _load_scaler(self, checkpoint: Any) -> None:
        with _reading(checkpoint):
            super()._load_scaler(checkpoint)  # type: ignore[no-untyped-call]

    def _load_from_checkpoint(self, *arguments: Any, **options: Any) -> None:
        with _reading(arguments[0]):
            super()._load_from_checkpoint(*arguments, **options)  # type: ignore[no-untyped-call]

    # --- log and checkpoints --------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss (means since the last log) and the method's statistics."""
        if "loss" in logs and self._batches:
            logs |= {f"loss_{name}": round(float(value) / self._batches, 6) for name, value in self._sums.items()}
            self._sums.clear()
            self._batches = 0
            if self.method is not None:
                logs |= self.method.statistics()
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Saves the state dict of the training, masks and scores included."""
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self.network.state_dict() if state_dict is None else state_dict, folder / SAFETENSORS)

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        """Saves a checkpoint as transformers does, then the file `COMPLETE`; removes it where that fails.

        Raises:
            OutputError: there is no space, or no permission; earlier checkpoints are untouched.
        """
        folder = Path(self.args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(*arguments, **options)  # type: ignore[no-untyped-call]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                sync_files(folder)
                (folder / COMPLETE).touch()
                self._remove_older(folder)
        except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError where it cannot write
            remove_checkpoint(folder)
            good = last_checkpoint(folder.parent)
            raise OutputError(
                f"{folder}: the checkpoint cannot be written: {' '.join(str(error).split())[:200]}. "
                + (f"The last good one is {good}" if good is not None else "There is none before it")
                + "; make room and go on with --resume"
            ) from error

    def _remove_older(self, newest: Path) -> None:
        """Removes the oldest checkpoints beside `newest` beyond the number to keep; files of others are left alone."""
        if self._kept_checkpoints is None or self._kept_checkpoints < 1:
            return
        others = sorted((path for path in checkpoints(newest.parent) if path != newest), key=checkpoint_step)
        for path in others[: max(0, len(others) + 1 - self._kept_checkpoints)]:
            remove_checkpoint(path)


@contextmanager
def _reading(checkpoint: Any) -> Iterator[None]:
    """Turns errors of torch and transformers that cannot read a file of `checkpoint` into one line.

    Raises:
        CheckpointError: a file is damaged, of another training, or would run code.
    """
    try:
        yield
    except PruneExportError:
        raise
    except Exception as error:  # they raise many kinds
        message = " ".join(str(error).split())[:200]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to let it run code
            message = "a file in it is damaged, or holds more than numbers, which is never run"
        raise CheckpointError(
            f"{checkpoint}: the training cannot go on from it: {message}. Delete it to go on from the one before"
        ) from error


def _unchanged(_step: int) -> float:
    return 1.0

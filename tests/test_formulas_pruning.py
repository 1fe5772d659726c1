"""Pruning's formulas against a few lines of NumPy, or against the Hugging Face model."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

import prune_export
from exporters.encoder import (
    Attention,
    ConstantBlock,
    Encoder,
    FeedForward,
    Linear,
    Ungated,
    map_layers,
)
from exporters.errors import UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save as save_onnx
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.tasks import Task
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.checkpoint.weights import read_weights
from prune_export.options.prune import CalibrationData
from prune_export.pruning.calibration import read_calibration
from prune_export.pruning.costs import Costs
from prune_export.pruning.gates import slim_layers
from prune_export.pruning.obs import BlockMoments, block_moments, remove_all
from prune_export.pruning.pruned_network import full_size_tensors, keep_units, unpruned
from prune_export.pruning.reconstruction.layerwise import reconstruct
from prune_export.pruning.reconstruction.least_squares import Moments, fit, ridge_regression, token_weights
from prune_export.pruning.scores import random_scores
from prune_export.pruning.selection import Rules, select, select_counts
from prune_export.slim_model.model import slim_module
from prune_export.surgeon.biases import fold_value_bias
from prune_export.surgeon.columns import remove_columns
from prune_export.surgeon.head_dimensions import remove_query_key_dimensions
from prune_export.tasks import SPECS
from tests.made_scores import layer_scores
from tests.models import FAMILY_CASES, FamilyCase, example_inputs, make_model, save
from tests.tiny_tokenizers import bert_tokenizer, save_with_tokenizer

BERT = FAMILY_CASES[0]
Array = NDArray[np.float64]
Batches = list[dict[str, torch.Tensor]]


# --- reconstruction, in NumPy -----------------------------------------------------------------------------------------


def best_fit(features: list[Array], targets: list[Array], weights: list[Array], start: Array) -> Array:
    """argmin Σ w |W f - t|² + λ |W - start|² with a free bias, the λ that batches 1, 9, … like best."""

    def rows(held_out: bool) -> tuple[Array, Array]:
        found = [
            (np.hstack([f, np.ones((len(f), 1))]) * np.sqrt(w)[:, None], t * np.sqrt(w)[:, None])
            for place, (f, t, w) in enumerate(zip(features, targets, weights, strict=True))
            if (place % 8 == 1) == held_out
        ]
        return np.concatenate([f for f, _ in found]), np.concatenate([t for _, t in found])

    (fitted, wanted), (check, reference) = rows(False), rows(True)
    candidates = [start]
    for ridge in (1e-4, 1e-3, 1e-2, 1e-1):
        gram = fitted.T @ fitted
        penalty = ridge * np.diag(gram)[:-1].mean() * np.diag([*[1.0] * (len(gram) - 1), 0.0]) if len(gram) > 1 else 0
        candidates.append(np.linalg.solve(gram + penalty, (wanted.T @ fitted + start @ (penalty + 0 * gram)).T).T)
    return min(candidates, key=lambda weight: float(np.square(check @ weight.T - reference).sum()))


class Reference:
    """The walk of layerwise.py's docstring over a Hugging Face BERT, each batch's real tokens as rows of a list."""

    def __init__(self, model: Any, batches: Batches) -> None:
        self.layers = model.bert.encoder.layer
        self.masks = [batch["attention_mask"].bool().numpy() for batch in batches]
        self.sums: list[list[Array]] = [
            [] for _ in range(2 * len(self.layers))
        ]  # before each norm of the dense network
        self.states: list[list[Array]] = [[] for _ in range(2 * len(self.layers) + 1)]
        self.norms = [
            norm for layer in self.layers for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm)
        ]
        hooks = [model.bert.embeddings.register_forward_hook(lambda _, __, out: self.states[0].append(out.numpy()))]
        for place, norm in enumerate(self.norms):
            hooks.append(norm.register_forward_hook(self._seen(place)))
        with torch.no_grad():
            for batch in batches:
                model(**{name: value for name, value in batch.items() if not name.endswith("positions")})
        for hook in hooks:
            hook.remove()
        self.now = list(self.states[0])  # the pruned network's

    def _seen(self, place: int) -> Any:
        def hook(_: Any, inputs: Any, output: torch.Tensor) -> None:
            self.sums[place].append(inputs[0].numpy().astype(np.float64))
            self.states[place + 1].append(output.numpy().astype(np.float64))

        return hook

    def fit(self, features: list[Array], targets: list[Array], weights: list[Array], start: Array) -> Array:
        parts = [[part[mask] for part, mask in zip(found, self.masks, strict=True)] for found in (features, targets)]
        return best_fit(*parts, [w[mask] for w, mask in zip(weights, self.masks, strict=True)], start)

    def mapped_inputs(self, place: int) -> list[Array]:
        """P x̂: what arrives, mapped to what the dense network has there."""
        start = np.eye(24, 25)
        ones = [np.ones(mask.shape) for mask in self.masks]
        found = start if place == 0 else self.fit(self.now, self.states[place], ones, start)
        return [x @ found[:, :-1].T + found[:, -1] for x in self.now]

    def step(self, place: int, features: list[Array], start: Array) -> None:
        """An output projection for the dense stream minus the pruned one; tokens weigh 1 / variance of the dense sums."""
        targets = [dense - x for dense, x in zip(self.sums[place], self.now, strict=True)]
        weights = [1 / dense.var(axis=-1, ddof=1) for dense in self.sums[place]]
        weight = self.fit(features, targets, weights, start)
        sums = [x + f @ weight[:, :-1].T + weight[:, -1] for x, f in zip(self.now, features, strict=True)]
        norm = self.norms[place]
        scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        self.now = [
            (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + norm.eps) * scale + shift for s in sums
        ]

    def walk(self, kept: Any) -> list[Array]:
        for index, (heads, columns) in enumerate(kept):
            layer = self.layers[index]
            output, up, down = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
            features, places = (
                [np.zeros((*x.shape[:2], 0)) for x in self.now],
                [6 * h + d for h in heads for d in range(6)],
            )
            if heads:
                features = [
                    contexts(layer.attention.self, x, mask, list(heads))
                    for x, mask in zip(self.mapped_inputs(2 * index), self.masks, strict=True)
                ]
            self.step(2 * index, features, numbers(output, columns=places))
            activation = [
                functional.gelu(
                    torch.from_numpy(x @ numbers(up)[list(columns), :-1].T + numbers(up)[list(columns), -1])
                )
                for x in self.mapped_inputs(2 * index + 1)
            ]
            self.step(2 * index + 1, [part.numpy() for part in activation], numbers(down, columns=list(columns)))
        return self.now


def numbers(linear: Any, columns: list[int] | None = None) -> Array:
    """A linear map's weight and bias as one matrix."""
    weight, bias = (part.detach().numpy().astype(np.float64) for part in (linear.weight, linear.bias))
    return np.hstack([weight if columns is None else weight[:, columns], bias[:, None]])


def contexts(attention: Any, x: Array, mask: NDArray[np.bool_], heads: list[int]) -> Array:
    query, key, value = (
        (x @ numbers(part)[:, :-1].T + numbers(part)[:, -1]).reshape(*x.shape[:2], 4, 6)[:, :, heads]
        for part in (attention.query, attention.key, attention.value)
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(6)
    scores = np.where(mask[:, None, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    found = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)
    return found.reshape(*x.shape[:2], -1)


@pytest.mark.parametrize("is_centered", [True, False])
def test_a_tokens_error_counts_as_much_as_it_is_after_the_norm(is_centered: bool) -> None:
    """A small error across the state, and without a mean, is divided by what the norm divides by; means are large here."""
    generator = torch.Generator().manual_seed(0)
    sums = torch.randn(5, 2000, generator=generator, dtype=torch.float64) * torch.tensor([[0.1], [1], [3], [9], [20]])
    sums += torch.tensor([[5.0], [-2.0], [0.0], [30.0], [1.0]])
    change = 1e-3 * torch.randn(5, 2000, generator=generator, dtype=torch.float64)
    change -= change.mean(dim=1, keepdim=True)
    along = sums - sums.mean(dim=1, keepdim=True)
    change -= along * (change * along).sum(dim=1, keepdim=True) / along.square().sum(dim=1, keepdim=True)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (2000,), eps=0) if is_centered else functional.rms_norm(x, (2000,), eps=0)

    expected = (norm(sums + change) - norm(sums)).square().sum(dim=1)
    weights = token_weights(sums, is_centered=is_centered)
    assert torch.allclose(weights * change.square().sum(dim=1), expected, rtol=1e-3)
    assert not torch.allclose(token_weights(sums, is_centered=not is_centered), weights, rtol=0.5)


def test_reconstruction_is_the_walk_of_its_docstring(tmp_path: Path) -> None:
    """Targets, input maps and token weights: any other of them gives another network."""
    model = make_model(BERT, "question-answering", num_hidden_layers=2, hidden_act="gelu")
    with torch.no_grad():  # residual sums of very different size, so that token weights matter
        model.bert.embeddings.LayerNorm.weight.mul_(torch.linspace(0.3, 3, 24))
        model.bert.encoder.layer[0].output.dense.weight.mul_(3)
    checkpoint = load_checkpoint(save(model, tmp_path))
    batches = [example_inputs(model, batch=6, length=17, seed=seed) for seed in range(18)]
    kept = (((), (0, 3, 4, 7, 9, 12, 15, 19)), ((0, 2), (1, 2, 5, 8, 11, 13, 14, 16, 17)))
    refitted, fits = reconstruct(checkpoint.encoder, keep_units(unpruned(checkpoint.encoder), kept).encoder, batches)
    assert all(part.accepted for part in fits)
    assert [(part.layer, part.part) for part in fits] == [
        *((0, part) for part in ("attention output", "up inputs", "down")),
        *((1, part) for part in ("attention inputs", "attention output", "up inputs", "down")),
    ]
    expected = Reference(model, batches).walk(kept)
    network = slim_module(checkpoint, refitted)
    head = numbers(model.qa_outputs)
    for batch, states in zip(batches, expected, strict=True):
        with torch.no_grad():
            found = network(**batch)
        wanted = states @ head[:, :-1].T + head[:, -1]
        mask = batch["attention_mask"].bool().numpy()
        for place, name in enumerate(("start_logits", "end_logits")):
            np.testing.assert_allclose(found[name].numpy()[mask], wanted[..., place][mask], atol=5e-3)


def test_the_ridge_leaves_the_bias_alone() -> None:
    """Weights shrink towards where they were; the bias goes to where the least squares want it, whatever the penalty."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3))
    features -= features.mean(axis=0)  # so that weights and bias have nothing to do with each other
    targets = features @ rng.normal(size=(3, 2)) + [5.0, -7.0]
    sums = Moments(3, 2)
    sums.add(torch.from_numpy(features), torch.from_numpy(targets), torch.ones(200, dtype=torch.float64))
    found = ridge_regression(sums, torch.zeros(2, 4, dtype=torch.float64), 1e6).numpy()
    np.testing.assert_allclose(found[:, -1], targets.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found[:, :-1], 0, atol=1e-4)


def test_held_out_errors_are_parts_of_the_targets_own_size() -> None:
    """Fits targets of about a thousandth: what counts is the part of them that is wrong."""
    rng = np.random.default_rng(0)
    train, check = Moments(3, 2), Moments(3, 2)
    start = rng.normal(size=(2, 4)) / 1000
    for sums in (train, check):
        features = rng.normal(size=(50, 3))
        targets = features @ rng.normal(size=(3, 2)) / 1000
        sums.add(torch.from_numpy(features), torch.from_numpy(targets), torch.ones(50, dtype=torch.float64))
    found = fit(train, check, torch.from_numpy(start), ridge_regression)
    for weight, error in ((start, found.before), (found.weight.numpy(), found.after)):
        wrong = features @ weight[:, :-1].T + weight[:, -1] - targets
        assert error == pytest.approx(np.square(wrong).sum() / np.square(targets).sum(), rel=1e-6)


def test_what_is_left_of_a_shared_layer_is_the_mean_of_what_it_added(tmp_path: Path) -> None:
    """Takes both blocks from ALBERT's one layer: a constant stays for each, tokens by 1 / variance, at all places."""
    model = make_model(FAMILY_CASES[-1], "question-answering")
    layer = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
    added: dict[str, list[Array]] = {"attention output": [], "down": []}
    sums: dict[str, list[Array]] = {"attention output": [], "down": []}
    for name, output, norm in (
        ("attention output", layer.attention.dense, layer.attention.LayerNorm),
        ("down", layer.ffn_output, layer.full_layer_layer_norm),
    ):
        output.register_forward_hook(lambda _, __, out, name=name: added[name].append(out.numpy().astype(np.float64)))
        norm.register_forward_hook(lambda _, inputs, __, name=name: sums[name].append(inputs[0].numpy()))
    checkpoint = load_checkpoint(save(model, tmp_path))
    batches = [example_inputs(model, seed=seed) for seed in range(9)]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    network, fits = reconstruct(
        checkpoint.encoder, keep_units(unpruned(checkpoint.encoder), (((), ()),)).encoder, batches
    )
    assert [(part.layer, part.part, part.accepted) for part in fits] == [(0, name, True) for name in added]
    for name, block in (("attention output", network.layers[0].attention), ("down", network.layers[0].feed_forward)):
        values, weights = [], []
        for place, batch in enumerate(batches):
            mask = batch["attention_mask"].bool().numpy()
            for run in range(3 * place, 3 * place + 3) if place % 8 != 1 else ():
                values.append(added[name][run][mask])
                weights.append(1 / sums[name][run][mask].var(axis=-1, ddof=1))
        assert isinstance(block, ConstantBlock)
        wanted = np.average(np.concatenate(values), axis=0, weights=np.concatenate(weights))
        np.testing.assert_allclose(block.bias.numpy(), wanted, rtol=1e-3, atol=1e-4)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if "question-answering" in case.tasks], ids=str)
def test_an_answers_loss_is_the_hugging_face_models(case: FamilyCase) -> None:
    """Start and end count alike; a row beside longer ones loses what it loses alone, without any padding."""
    model = make_model(case, case.task)
    lengths, longest = (17, 9, 5), 17
    pad = model.config.pad_token_id or 0
    rows, wanted = [], []
    for seed, length in enumerate(lengths):
        row = example_inputs(model, batch=1, length=2 * length, seed=seed)
        row = {name: value[:, :length] for name, value in row.items()}  # its second half is padding
        start, end = length // 4, length - 2
        with torch.no_grad():
            wanted.append(model(**row, start_positions=torch.tensor([start]), end_positions=torch.tensor([end])).loss)
        padded = {
            name: functional.pad(value, (0, longest - length), value=pad if name == "input_ids" else 0)
            for name, value in row.items()
        }
        rows.append(padded | {"start_positions": torch.tensor([start]), "end_positions": torch.tensor([end])})
    batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    positions = ("start_positions", "end_positions")
    with torch.no_grad():
        outputs = model(**{name: value for name, value in batch.items() if name not in positions})
        found = SPECS["question-answering"].sample_losses(outputs, batch, torch.Generator())
    np.testing.assert_allclose(found.numpy(), torch.stack(wanted).numpy(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 2, 1]), torch.tensor([0.5, -1.0, 2.0])], ids=["classes", "numbers"]
)
def test_a_texts_loss_is_the_hugging_face_models(labels: torch.Tensor) -> None:
    model = make_model(BERT, "text-classification", num_labels=1 if labels.is_floating_point() else 3)
    batch = example_inputs(model)
    with torch.no_grad():
        found = SPECS["text-classification"].sample_losses(
            model(**batch), batch | {"labels": labels}, torch.Generator()
        )
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            assert float(model(**one, labels=labels[row : row + 1]).loss) == pytest.approx(float(found[row]), rel=1e-4)


@pytest.mark.parametrize("task", ["token-classification", "fill-mask"])
def test_a_tokens_loss_is_the_hugging_face_models(task: Task) -> None:
    """Draws classes from what the network predicts; padding does not count, and no row depends on another."""
    model = make_model(BERT, task)
    batch = example_inputs(model)
    with torch.no_grad():
        outputs = model(**batch)
        chances = outputs.logits.softmax(2).flatten(0, 1)
        labels = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(7)).view(3, 17)
        labels = labels.masked_fill(batch["attention_mask"] == 0, -100)
        found = SPECS[task].sample_losses(outputs, batch, torch.Generator().manual_seed(7))
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            assert float(model(**one, labels=labels[row : row + 1]).loss) == pytest.approx(float(found[row]), rel=1e-4)


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_takes_the_window_that_holds_the_answer(tmp_path: Path) -> None:
    """Contexts of several windows, the answer never in the first."""
    folder = save_with_tokenizer(
        make_model(BERT, "question-answering", vocab_size=90), bert_tokenizer(), tmp_path / "m"
    )
    paragraphs = []
    for index in range(8):
        context = f"{'a b c d e f g ' * 3}{index} h i"
        answer = {"text": str(index), "answer_start": context.index(str(index))}
        paragraphs.append({"context": context, "qas": [{"id": str(index), "question": "the?", "answers": [answer]}]})
    path = tmp_path / "train.json"
    path.write_text(
        json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8"
    )
    found = read_calibration(CalibrationData(path, samples=8, seed=0, max_seq_length=16), load_checkpoint(folder))
    tokenizer = bert_tokenizer()
    answers = []
    for batch in found.batches:
        for ids, start, end in zip(batch["input_ids"], batch["start_positions"], batch["end_positions"], strict=True):
            answers.append(tokenizer.decode(ids[start : end + 1]))
    assert sorted(answers) == [str(index) for index in range(8)]


# --- selection --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", [1.00001, 1.00004])
def test_prices_rounded_up_never_exceed_the_budget(price: float) -> None:
    """Three blocks that are a hair too dear together: rounded down to parts of the budget, all of them would fit."""
    scores = [layer_scores([1.0], [1.0]), layer_scores([1.0], [])]
    costs = Costs("ms", 3 * price, 0.0, ((0.0, price), (0.0, price)), ((0.0, price), (0.0,)))
    costs = replace(costs, cases=(costs,))
    kept = select(scores, costs, 3.0)
    counts = tuple((len(heads), len(columns)) for heads, columns in kept)
    assert sum(map(sum, counts)) == 2
    assert costs.total(counts) <= 3.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_best_case_wins_wherever_it_stands(order: tuple[int, ...]) -> None:
    """Spends 2 of 5: one case has room for a head and a column, one for no head, one for both heads and a column."""
    heads = ((0.0, 1.0, 3.0), (0.0, np.inf, np.inf), (0.0, 0.5, 1.0))
    cases = [Costs("ms", 5.0, 0.0, (prices,), ((0.0, 1.0, 2.0),)) for prices in heads]
    costs = replace(cases[0], cases=tuple(cases[place] for place in order))
    assert select([layer_scores([1.0, 0.5], [10.0, 0.1])], costs, 2.0) == (((0, 1), (0,)),)


def test_a_refusal_rounds_what_it_offers_and_not_what_was_asked() -> None:
    """Calls 2 of 6 0.333, as it was asked; 4 of 6 are 0.667 where 0.666 would not be enough."""
    scores = [layer_scores([1.0, 1.0], [1.0])] * 3
    with pytest.raises(UsageError) as found:
        select_counts(scores, 2, 1, Rules(keep_layers=frozenset({0, 1})))
    asked, offered = str(found.value).split("cannot be met")
    assert "2 of 6 heads (0.333) and 1 of 3 columns (0.333)" in asked
    assert "4 of 6 heads (0.667) and 2 of 3 columns (0.667)" in offered


# --- cutting ----------------------------------------------------------------------------------------------------------


def test_what_stands_has_the_hugging_face_models_weights(tmp_path: Path) -> None:
    """Compares even the biases of keys, which change no output: a checkpoint has them."""
    model = make_model(BERT, "question-answering")
    encoder = load_checkpoint(save(model, tmp_path)).encoder
    kept = (((0, 3), (1, 5)), ((1,), (2,)), ((0, 1, 2, 3), (0,)))
    for found, (heads, _), layer in zip(
        keep_units(unpruned(encoder), kept).encoder.layers, kept, model.bert.encoder.layer, strict=True
    ):
        block = found.attention
        assert isinstance(block, Attention)
        rows = [6 * head + place for head in heads for place in range(6)]
        for part, weight, bias in (
            (layer.attention.self.query, block.query_weight, block.query_bias),
            (layer.attention.self.key, block.key_weight, block.key_bias),
            (layer.attention.self.value, block.value_weight, block.value_bias),
        ):
            assert bias is not None
            assert torch.equal(weight.flatten(0, 1), part.weight[rows])
            assert torch.equal(bias.flatten(), part.bias[rows])
        assert torch.equal(block.output_weight.flatten(1), layer.attention.output.dense.weight[:, rows])


def test_attention_without_biases_is_cut(tmp_path: Path) -> None:
    """Cuts attention as surgery leaves it."""
    dense = load_checkpoint(save(make_model(BERT, "question-answering"), tmp_path)).encoder
    encoder = map_layers(
        dense, lambda _, layer: replace(layer, attention=replace(layer.attention, key_bias=None, value_bias=None))
    )
    for layer in keep_units(unpruned(encoder), (((1, 2), (0,)),) * 3).encoder.layers:
        assert isinstance(layer.attention, Attention)
        assert layer.attention.heads == (1, 2)
        assert layer.attention.key_bias is None
        assert layer.attention.value_bias is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_checkpoints_weights_keep_their_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """Writes a network that lost nothing to a checkpoint of another precision: all tensors are as PyTorch rounds them."""
    checkpoint = load_checkpoint(save(make_model(BERT, "question-answering"), tmp_path))
    weights = {name: part.to(dtype) for name, part in read_weights(tmp_path, checkpoint.family).items()}
    changed = full_size_tensors(checkpoint, weights, unpruned(checkpoint.encoder))
    assert len(changed) == 3 * 12  # query, key, value, output, up and down of each layer: weight and bias
    for name, part in changed.items():
        assert part.dtype == dtype
        assert torch.equal(part, weights[name])


def test_what_stays_is_told_beside_the_parameters_of_the_hugging_face_model(tmp_path: Path) -> None:
    """Counts the parameters of the model's layers, of which at most the part that was asked for stays."""
    model = make_model(BERT, "text-classification", vocab_size=90, num_labels=2)
    folder = save_with_tokenizer(model, bert_tokenizer(), tmp_path / "dense")
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\n" + "".join(f"a {index}\t{index % 2}\n" for index in range(8)), encoding="utf-8")
    (result,) = prune_export.prune(folder, path, tmp_path / "out", parameters=0.6, samples=8, dataset="sst2")
    assert result.dense == sum(part.numel() for part in model.bert.encoder.parameters())
    assert result.cost <= 0.6 * result.dense


# --- exact folding ----------------------------------------------------------------------------------------------------


def cancelling(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `[3, count]` and constants of a thousand, neighbours of which cancel up to their last digits."""
    rng = np.random.default_rng(0)
    weight = np.repeat(rng.normal(size=(3, count // 2)), 2, axis=1) * np.tile([1, -1], count // 2)
    constant = np.repeat(rng.uniform(500, 1500, size=count // 2), 2) + rng.normal(size=count)
    return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(constant.astype(np.float32))


def test_folds_are_summed_in_float64(tmp_path: Path) -> None:
    """Value biases, emptied columns and merged query dimensions, each to the last digits that float32 has."""
    block: Any = load_checkpoint(save(make_model(BERT, "question-answering"), tmp_path)).encoder.layers[0].attention
    weight, constant = cancelling(4096)
    wanted = weight.numpy().astype(np.float64) @ constant.numpy().astype(np.float64)
    assert np.abs(wanted).max() < 1e-3 * np.abs(weight.numpy() * constant.numpy()).sum()
    nothing = torch.zeros(3)

    heads = replace(
        block, value_bias=constant.view(4, 1024), output_weight=weight.view(3, 4, 1024), output_bias=nothing
    )
    np.testing.assert_allclose(fold_value_bias(heads).output_bias.numpy(), wanted, rtol=1e-6)

    columns = FeedForward(Linear(torch.zeros(4096, 24), constant), Ungated("relu"), Linear(weight, nothing))
    np.testing.assert_allclose(remove_columns(columns, ()).down.bias.numpy(), wanted, rtol=1e-6)

    queries = torch.zeros(1, 4096, 3)  # of which dimension 0 stays
    queries[0, 0], constant[0] = 1, 0
    wanted = weight.numpy().astype(np.float64) @ constant.numpy().astype(np.float64)
    keys = weight.T[None].contiguous()
    one = replace(block, heads=(0,), query_weight=queries, query_bias=constant[None], key_weight=keys, key_bias=None)
    merged = remove_query_key_dimensions(one, {0: (0,)})
    np.testing.assert_allclose(merged.key_weight[0, 1].numpy(), wanted, rtol=1e-6)


# --- the first token only ---------------------------------------------------------------------------------------------


def tokens_computed(encoder: Encoder, folder: Path, inputs: dict[str, torch.Tensor]) -> list[int]:
    """For each layer, for how many tokens its feed-forward block multiplies, as ONNX Runtime does it."""
    path = folder / "model.onnx"
    save_onnx(build(encoder, TARGETS["portable"], PRECISIONS["fp32"]), path)
    model = onnx.load(str(path))
    last: dict[str, str] = {}
    for node in model.graph.node:
        scope = node.name.rsplit("/", 1)[0]
        if "feed_forward" in node.name and node.op_type == "MatMul":
            last.setdefault(scope.split("/")[0], node.output[0])
    names = [last[f"layer_{index}"] for index in range(len(encoder.layers))]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(names, {name: inputs[name].numpy() for name in encoder.inputs})
    return [int(np.prod(part.shape[:-1])) for part in found]


def test_after_the_last_attention_only_first_tokens_are_computed(tmp_path: Path) -> None:
    """The last layer has no attention: what stands before it already asks for the first token alone."""
    model = make_model(BERT, "text-classification")
    encoder = load_checkpoint(save(model, tmp_path / "model")).encoder
    inputs = example_inputs(model, batch=3, length=17)
    assert tokens_computed(encoder, tmp_path, inputs) == [51, 51, 3]
    last = replace(encoder.layers[2], attention=ConstantBlock(torch.ones(24)))
    pruned = replace(encoder, layers=(*encoder.layers[:2], last))
    assert tokens_computed(pruned, tmp_path, inputs) == [51, 3, 3]
    nothing = tuple(replace(layer, attention=ConstantBlock(torch.ones(24))) for layer in encoder.layers)
    assert tokens_computed(replace(encoder, layers=nothing), tmp_path, inputs) == [3, 3, 3]


def test_chance_draws_a_number_per_unit_that_is_there(tmp_path: Path) -> None:
    """Uniform from 0 to 1, times the number of weights of a head (twice its width) or of a column (1)."""
    dense = load_checkpoint(save(make_model(BERT, "question-answering"), tmp_path)).encoder
    first, second = dense.layers[:2]
    assert isinstance(first.attention, Attention)
    assert isinstance(second.feed_forward, FeedForward)
    gone = ConstantBlock(second.feed_forward.down.bias)
    encoder = replace(
        dense, layers=(replace(first, attention=gone), replace(second, feed_forward=gone), *dense.layers[2:])
    )
    generator = torch.Generator().manual_seed(3)
    for number, found in enumerate(random_scores(encoder, seed=3)):
        heads = 0 if number == 0 else len(first.attention.heads)
        columns = 0 if number == 1 else second.feed_forward.columns
        drawn = torch.rand(heads + columns, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(found.heads, drawn[:heads] * 2 * first.attention.value_size, rtol=0, atol=0)
        torch.testing.assert_close(found.columns, drawn[heads:], rtol=0, atol=0)


# --- optimal brain surgeon, in NumPy ----------------------------------------------------------------------------------


def least_loss(weight: Array, features: Array, gradients: Array, gone: list[int]) -> float:
    """tr(M E H Eᵀ) / 2 of the best refit of the features that stay."""
    error = weight.copy()
    stays = [index for index in range(len(features)) if index not in gone]
    refit = weight @ features[:, stays] @ np.linalg.inv(features[np.ix_(stays, stays)])
    error[:, stays] -= refit
    return float(np.trace(gradients @ error @ features @ error.T) / 2)


@pytest.mark.parametrize(("size", "group"), [(1, 1), (1, 3), (3, 1)])
def test_obs_downdates_give_the_loss_of_a_refit_at_every_level(size: int, group: int) -> None:
    rng = np.random.default_rng(0)
    weight, features = rng.normal(size=(6, 12)), rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12))
    gradients = rng.normal(size=(4, 6))  # of lower rank than the weight
    moments = BlockMoments(torch.from_numpy(features.T @ features / 200), torch.from_numpy(gradients.T @ gradients))
    removal = remove_all(torch.from_numpy(weight), moments, size=size, group=group, damping=0.0)
    assert sorted(removal.order) == list(range(12 // size))
    gone: list[int] = []
    for step in range(0, len(removal.order), group):
        for unit in removal.order[step : step + group]:
            gone += range(unit * size, (unit + 1) * size)
        expected = least_loss(weight, moments.features.numpy(), moments.gradients.numpy(), gone)
        assert sum(removal.losses[: step + group]) == pytest.approx(expected, rel=1e-6)


def test_obs_removes_the_unit_that_costs_least() -> None:
    rng = np.random.default_rng(1)
    weight, features = rng.normal(size=(5, 7)), rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7))
    moments = BlockMoments(torch.from_numpy(features.T @ features / 60), torch.eye(5, dtype=torch.float64))
    removal = remove_all(torch.from_numpy(weight), moments, damping=0.0)
    gone: list[int] = []
    for unit in removal.order:
        others = [index for index in range(7) if index not in gone]
        losses = {index: least_loss(weight, moments.features.numpy(), np.eye(5), [*gone, index]) for index in others}
        assert unit == min(losses, key=lambda index: losses[index])
        gone.append(unit)


def test_block_moments_are_those_of_contexts_and_gradients(tmp_path: Path) -> None:
    model = make_model(BERT, "text-classification")
    save(model, tmp_path)
    encoder = load_checkpoint(resolve(tmp_path)).encoder
    inputs = example_inputs(model)
    batch = {**inputs, "labels": torch.tensor([0, 1, 1])[: len(inputs["input_ids"])]}
    slim = slim_module(load_checkpoint(resolve(tmp_path)), encoder)
    moments = block_moments(slim, slim_layers(slim), encoder.task, encoder.inputs, [batch])
    down = slim.layers[1].feed_forward.down
    seen: dict[str, torch.Tensor] = {}

    def hook(_module: Any, arguments: Any, output: torch.Tensor) -> None:
        seen.update(features=arguments[0], output=output)
        output.retain_grad()

    handle = down.register_forward_hook(hook)
    loss = functional.cross_entropy(slim(**inputs).logits, batch["labels"], reduction="sum")
    loss.backward()
    handle.remove()
    attended = inputs["attention_mask"].bool().numpy()
    assert seen["output"].grad is not None
    features, gradients = seen["features"].detach().numpy()[attended], seen["output"].grad.numpy()[attended]
    weights = (gradients**2).sum(axis=1)
    found = moments[3]
    assert found is not None
    np.testing.assert_allclose(found.gradients.numpy(), gradients.T @ gradients / len(attended), rtol=1e-4, atol=1e-9)
    expected = (features * weights[:, None]).T @ features / weights.sum()
    np.testing.assert_allclose(found.features.numpy(), expected, rtol=1e-4, atol=1e-7)
    assert not any(module._forward_hooks for module in slim.modules())

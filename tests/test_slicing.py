"""Residual streams of several widths: exact at full width, like a simulation in all dimensions below; saved and exported."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import prune_export
from exporters.axes import named_tensors
from exporters.cost import count_parameters, flops_per_token, layer_parameters, layer_shape
from exporters.encoder import ConstantBlock, Encoder, tensors
from exporters.errors import CheckpointError, UnsupportedError, UsageError, WeightsError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save as save_onnx
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.tasks import TASKS, Task
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.cli.tables.export import summary_table
from prune_export.pruning.costs import counts_of, flops_costs, parameter_costs
from prune_export.slicing.bases import Basis, spectra
from prune_export.slicing.slicer import Refitting, slice_network
from prune_export.slicing.widths import one_width, widths_by_share
from prune_export.slim_model.model import slim_module
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.tasks import SPECS
from prune_export.training.teacher import load_teacher
from prune_export.verbs.inspect import inspect
from tests.comparing import FORMS, LIMITS, largest_difference, onnx_outputs, torch_outputs
from tests.models import FAMILY_CASES, FAMILY_TASKS, FamilyCase, example_inputs, linear, make_model, save

CASES = {case.model_type: case for case in FAMILY_CASES}
BERT, ELECTRA, ALBERT = (CASES[name] for name in ("bert", "electra", "albert"))
# Networks of every order of norms, kind of scores and gating.
SLICED = ("bert", "electra", "roberta", "distilbert", "mpnet", "modernbert", "deberta", "deberta-v2")
SLICED += ("nomic_bert", "gte", "jina_embeddings_v3", "eurobert")


def batches_of(model: Any, count: int = 10) -> list[dict[str, Tensor]]:
    return [example_inputs(model, seed=seed) for seed in range(count)]


def read(model: Any, folder: Path, task: Task) -> Checkpoint:
    return load_checkpoint(save(model, folder), task=task)


def plain(encoder: Encoder, batches: list[dict[str, Tensor]]) -> tuple[Basis, ...]:
    """Bases of the variance alone, which need no labels."""
    return spectra(encoder, batches, sensitivity=0)


def answers(checkpoint: Checkpoint, encoder: Encoder, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs = slim_module(checkpoint, encoder)(**inputs)
    return {name: outputs[name] for name in encoder.outputs}


def inputs_of(model: Any, encoder: Encoder) -> dict[str, Tensor]:
    """Inputs that no basis was made of; without padding where it is zero in the model, which a sliced stream cannot be."""
    inputs = example_inputs(model, seed=99)
    if encoder.embeddings.masked:
        inputs["attention_mask"][:] = 1
    return inputs


def least_exact(checkpoint: Checkpoint) -> int:
    """RMSNorm subtracts no mean that could be left out."""
    return 23 if checkpoint.family.centered_norms else 24


@pytest.mark.parametrize(("case", "task"), [row for row in FAMILY_TASKS if str(row[0]) in SLICED], ids=str)
def test_full_width_is_the_original(case: FamilyCase, task: Task, tmp_path: Path) -> None:
    """With all directions, and without the mean that LayerNorm subtracts, on inputs that no basis was made of."""
    model = make_model(case, task)
    checkpoint = read(model, tmp_path, task)
    dense, inputs = checkpoint.encoder, inputs_of(model, checkpoint.encoder)
    bases = spectra(dense, batches_of(model), sensitivity=0)
    expected = torch_outputs(model, dense, inputs)
    limit = 5e-5 if checkpoint.family.is_gated else 2e-5  # products multiply roundings
    least = least_exact(checkpoint)
    refits: tuple[tuple[int, Refitting], ...] = ((24, "none"), (least, "none"), (24, "writing"), (24, "full"))
    for width, refit in refits:
        sliced = slice_network(dense, dense, batches_of(model), one_width(dense, width), bases=bases, refit=refit)
        assert sliced.widths == one_width(dense, width)
        found = torch_outputs(slim_module(checkpoint, sliced), dense, inputs)
        assert largest_difference(expected, found) < limit, width


@pytest.mark.parametrize("case", [case for case in FAMILY_CASES if str(case) in SLICED], ids=str)
def test_a_pruned_network_is_sliced_as_well(case: FamilyCase, tmp_path: Path) -> None:
    """With fewer heads and columns, and blocks that are constants."""
    model = make_model(case, case.task)
    with torch.no_grad():
        linear(model, case, 0, "value").weight[:6] = 0
        linear(model, case, 1, "value").weight[:] = 0
        linear(model, case, 1, "down").weight[:] = 0
        linear(model, case, 2, "up").weight[::3] = 0
    checkpoint = read(model, tmp_path, case.task)
    pruned = operate(checkpoint.encoder, plan_from_zeros(checkpoint.encoder))
    inputs = inputs_of(model, pruned)
    sliced = slice_network(
        checkpoint.encoder,
        pruned,
        batches_of(model),
        one_width(pruned, least_exact(checkpoint)),
        bases=plain(checkpoint.encoder, batches_of(model)),
        refit="none",
    )
    expected, found = (torch_outputs(part, pruned, inputs) for part in (model, slim_module(checkpoint, sliced)))
    assert largest_difference(expected, found) < (5e-5 if checkpoint.family.is_gated else 2e-5)
    assert [isinstance(layer.attention, ConstantBlock) for layer in sliced.layers[:3]] == [False, True, False]


def simulated(model: Any, vectors: list[Any], scales: list[float], inputs: dict[str, Tensor]) -> dict[str, Any]:
    """A BERT for questions in NumPy, in all dimensions, whose norms project what they normalize onto `vectors` `[24, k]`."""
    weights = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    heads, size, epsilon = 4, 6, model.config.layer_norm_eps

    def apply(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(z: Any, name: str, index: int) -> Any:
        basis = vectors[index]
        kept = (z - z.mean(-1, keepdims=True)) @ basis @ basis.T
        n = scales[index] * kept / np.sqrt((kept**2).sum(-1, keepdims=True) / 24 + epsilon)
        return n * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def split(x: Any) -> Any:
        return x.reshape(*x.shape[:2], heads, size).transpose(0, 2, 1, 3)

    ids, types = inputs["input_ids"].numpy(), inputs["token_type_ids"].numpy()
    tables = "bert.embeddings.{}_embeddings.weight"
    x = weights[tables.format("word")][ids] + weights[tables.format("token_type")][types]
    x = norm(x + weights[tables.format("position")][: ids.shape[1]], "bert.embeddings.LayerNorm", 0)
    bias = np.where(inputs["attention_mask"].numpy() == 1, 0.0, -1e30)[:, None, None, :]
    for index in range(3):
        layer = f"bert.encoder.layer.{index}"
        query, key, value = (split(apply(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(size) + bias
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = chances / chances.sum(-1, keepdims=True) @ value
        update = apply(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{layer}.attention.output.dense")
        x = norm(x + update, f"{layer}.attention.output.LayerNorm", 2 * index + 1)
        inner = apply(x, f"{layer}.intermediate.dense")
        inner = torch.nn.functional.gelu(torch.from_numpy(inner)).numpy()
        x = norm(x + apply(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm", 2 * index + 2)
    logits = apply(x, "qa_outputs")
    return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


def test_a_narrow_network_is_its_simulation_in_all_dimensions(tmp_path: Path) -> None:
    model = make_model(BERT, "question-answering")
    checkpoint = read(model, tmp_path, "question-answering")
    batches, widths = batches_of(model), (20, 9, 16, 12, 5, 24, 3)
    bases = plain(checkpoint.encoder, batches)
    sliced = slice_network(checkpoint.encoder, checkpoint.encoder, batches, widths, bases=bases, refit="none")
    assert sliced.widths == widths
    assert [tuple(layer.attention_skip.shape) for layer in sliced.layers] == [(9, 20), (12, 16), (24, 5)]  # type: ignore[union-attr]
    assert sliced.embeddings.word.shape == (61, 20)
    vectors = [basis.vectors[:, :width].numpy() for basis, width in zip(bases, widths, strict=True)]
    scales = [np.sqrt(basis.variance(width)) for basis, width in zip(bases, widths, strict=True)]
    inputs = example_inputs(model, seed=99)
    expected = simulated(model, vectors, scales, inputs)
    for name, actual in answers(checkpoint, sliced, inputs).items():
        np.testing.assert_allclose(actual.numpy(), expected[name], atol=2e-5)
    everything = simulated(model, [np.eye(24)] * 7, [1.0] * 7, inputs)
    with torch.no_grad():
        np.testing.assert_allclose(model(**inputs).start_logits.numpy(), everything["start_logits"], atol=2e-5)
    assert np.abs(everything["start_logits"] - expected["start_logits"]).max() > 0.1  # slicing is no small change here


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, tuple[Checkpoint, Encoder]]:
    """A network of every task with narrow streams, a constant block and fewer columns, refitted."""
    made: dict[Task, tuple[Checkpoint, Encoder]] = {}
    for task in TASKS:
        model = make_model(BERT, task)
        with torch.no_grad():
            linear(model, BERT, 1, "value").weight[:] = 0
            linear(model, BERT, 2, "up").weight[::3] = 0
        checkpoint = read(model, tmp_path_factory.mktemp(task), task)
        pruned = operate(checkpoint.encoder, plan_from_zeros(checkpoint.encoder))
        bases = plain(checkpoint.encoder, batches_of(model))
        made[task] = checkpoint, slice_network(checkpoint.encoder, pruned, batches_of(model), WIDTHS, bases=bases)
    return made


WIDTHS = (20, 9, 16, 12, 5, 22, 11)
INPUTS = example_inputs(make_model(BERT, "question-answering"), seed=99)


@pytest.mark.parametrize("task", TASKS)
def test_every_target_writes_the_slim_network(
    networks: dict[Task, tuple[Checkpoint, Encoder]], task: Task, tmp_path: Path
) -> None:
    checkpoint, sliced = networks[task]
    expected = {name: value.numpy() for name, value in answers(checkpoint, sliced, INPUTS).items()}
    for target, dtype in FORMS:
        for optimize in (True, False):
            found = onnx_outputs(sliced, INPUTS, tmp_path, target=target, dtype=dtype, optimize=optimize)
            assert largest_difference(expected, found) < LIMITS[dtype], (target, dtype, optimize)
    damaged = replace(sliced.layers[0], attention_skip=1.3 * sliced.layers[0].attention_skip)
    found = onnx_outputs(replace(sliced, layers=(damaged, *sliced.layers[1:])), INPUTS, tmp_path)
    assert largest_difference(expected, found) > LIMITS["fp16"]


@pytest.mark.parametrize("opset", [17, 18, 23])
def test_norms_in_every_opset(networks: dict[Task, tuple[Checkpoint, Encoder]], opset: int, tmp_path: Path) -> None:
    checkpoint, sliced = networks["question-answering"]
    expected = {name: value.numpy() for name, value in answers(checkpoint, sliced, INPUTS).items()}
    for target in ("cpu", "portable"):
        found = onnx_outputs(sliced, INPUTS, tmp_path, target=target, opset=opset)
        assert largest_difference(expected, found) < LIMITS["fp32"]
    model = onnx.load(tmp_path / "portable-fp32.onnx")
    onnx.checker.check_model(model, full_check=True)


def test_onnx_runtime_has_one_operation_per_norm(
    networks: dict[Task, tuple[Checkpoint, Encoder]], tmp_path: Path
) -> None:
    """As fast forms: what ONNX Runtime makes of the graph for CPUs, and what is written for CUDA."""
    sliced = networks["question-answering"][1]
    save_onnx(build(sliced, TARGETS["cpu"], PRECISIONS["fp32"]), tmp_path / "cpu.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "cpu.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (kinds["SimplifiedLayerNormalization"], kinds["ReduceMean"], kinds["Pow"]) == (7, 0, 0)
    kinds = Counter(node.op_type for node in build(sliced, TARGETS["cuda"], PRECISIONS["fp16"]).graph)
    assert (kinds["SkipSimplifiedLayerNormalization"], kinds["ReduceMean"]) == (
        5,
        2,
    )  # embeddings, and the constant block


# --- on disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_sliced_network_trains_and_is_the_same_after_saving(
    networks: dict[Task, tuple[Checkpoint, Encoder]], task: Task, tmp_path: Path
) -> None:
    checkpoint, sliced = networks[task]
    module = slim_module(checkpoint, sliced).train()
    before = module.describe()
    outputs = module(**INPUTS)
    sum(outputs[name].square().mean() for name in sliced.outputs).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    after = named_tensors(module.layers[0].describe())
    assert {"attention_skip", "feed_forward_skip"} <= after.keys()
    assert "attention_norm.bias" not in after
    assert len(tensors(module.describe())) == len(tensors(before))
    module.eval().save_pretrained(tmp_path / "slim")
    again = prune_export.load_slim(tmp_path / "slim")
    assert again.describe().widths == WIDTHS
    with torch.no_grad():
        for name in sliced.outputs:
            assert torch.equal(again(**INPUTS)[name], module(**INPUTS)[name])


def damage(folder: Path, change: Any, record: Any = None) -> None:
    tensors_of = load_file(folder / "slim.safetensors")
    if change is not None:
        change(tensors_of)
        save_file(tensors_of, folder / "slim.safetensors")
    if record is not None:
        content = json.loads((folder / "pruning.json").read_text())
        record(content)
        (folder / "pruning.json").write_text(json.dumps(content))


def narrower(name: str, axis: int) -> Any:
    def change(tensors_of: dict[str, Tensor]) -> None:
        value = tensors_of[name]
        tensors_of[name] = value.narrow(axis, 0, value.shape[axis] - 1).contiguous()

    return change


def of_sliced(**values: Any) -> Any:
    return lambda record: record["sliced"].update(values)


@pytest.mark.parametrize(
    ("change", "record", "words"),
    [
        (narrower("layers.0.attention_skip", 1), None, ("layer 0", "'attention_skip'", "[9, 19]", "[9, 20]")),
        (narrower("layers.1.feed_forward_skip", 0), None, ("layer 1", "[4, 12]", "[5, 12]")),
        (narrower("layers.2.attention_norm.weight", 0), None, ("layer 2", "attention_norm.weight", "[21]", "[22]")),
        (narrower("embeddings.word", 1), None, ("embeddings", "[61, 19]", "[61, 20]")),
        (narrower("head.output.weight", 1), None, ("head", "[2, 10]", "[2, 11]")),
        (lambda found: found.pop("layers.0.feed_forward_skip"), None, ("feed_forward_skip", "missing")),
        (None, lambda record: record.pop("sliced"), ("attention_norm.bias", "missing")),
        (None, of_sliced(widths=[20] * 7), ("layer 0", "expected [20, ")),
        (None, of_sliced(widths=[20] * 6), ("7 norms", "6 and 7")),
        (None, of_sliced(widths=[0] * 7), (">= 1",)),
        (None, of_sliced(epsilons=[-1.0] * 7), (">= 0",)),
        (None, lambda record: record.update(order=[0, 1, 1]), ("shared",)),
    ],
)
def test_a_damaged_sliced_checkpoint_is_refused(
    networks: dict[Task, tuple[Checkpoint, Encoder]], change: Any, record: Any, words: tuple[str, ...], tmp_path: Path
) -> None:
    checkpoint, sliced = networks["question-answering"]
    slim_module(checkpoint, sliced).save_pretrained(tmp_path)
    damage(tmp_path, change, record)
    with pytest.raises(WeightsError) as caught:
        prune_export.load_slim(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_an_unsliced_checkpoint_needs_the_biases_of_its_norms(tmp_path: Path) -> None:
    prune_export.slim(save(make_model(BERT, "fill-mask"), tmp_path / "model")).save_pretrained(tmp_path / "slim")
    for name in ("layers.1.attention_norm.bias", "head.transform.norm.bias", "embeddings.norm.bias"):
        folder = shutil.copytree(tmp_path / "slim", tmp_path / name)
        damage(folder, lambda found, name=name: found.pop(name))  # type: ignore[misc]
        with pytest.raises(WeightsError, match=f"'{name}' is missing"):
            prune_export.load_slim(folder)


def test_features_of_a_sliced_checkpoint_need_their_original_width(
    networks: dict[Task, tuple[Checkpoint, Encoder]], tmp_path: Path
) -> None:
    checkpoint, sliced = networks["feature-extraction"]
    slim_module(checkpoint, sliced).save_pretrained(tmp_path)
    damage(tmp_path, lambda found: [found.pop(f"head.output.{name}") for name in ("weight", "bias")])
    with pytest.raises(WeightsError, match=r"head\.output\.weight"):
        prune_export.load_slim(tmp_path)


# --- refusals, widths and costs -----------------------------------------------------------------------------------------


def test_what_cannot_be_sliced_is_refused(networks: dict[Task, tuple[Checkpoint, Encoder]], tmp_path: Path) -> None:
    checkpoint, sliced = networks["question-answering"]
    dense, batches = checkpoint.encoder, [INPUTS]
    albert = make_model(ALBERT, "question-answering")
    shared = read(albert, tmp_path, "question-answering").encoder
    with pytest.raises(UnsupportedError, match="3 layers that share 1"):
        spectra(shared, batches)
    with pytest.raises(UnsupportedError, match="sliced to"):
        slice_network(sliced, sliced, batches, WIDTHS)
    no_norm = replace(dense.embeddings, norm=replace(dense.embeddings.norm, epsilon=None))
    with pytest.raises(UnsupportedError, match="no_norm"):
        spectra(replace(dense, embeddings=no_norm), batches)
    for widths in ((24,) * 6, (25, *(24,) * 6), (0, *(24,) * 6)):
        with pytest.raises(UsageError, match="expected 7 widths"):
            slice_network(dense, dense, batches, widths)
    with pytest.raises(UsageError, match="start_positions, end_positions"):
        spectra(dense, batches)
    with pytest.raises(UsageError, match="3 and 2"):
        slice_network(dense, replace(dense, layers=dense.layers[:2]), batches, WIDTHS)


def test_widths_by_share_are_the_eigenvalues(networks: dict[Task, tuple[Checkpoint, Encoder]]) -> None:
    checkpoint, _ = networks["question-answering"]
    batches = batches_of(make_model(BERT, "question-answering"))
    bases = plain(checkpoint.encoder, batches)
    x = torch.cat([embedded(checkpoint.encoder, batch)[batch["attention_mask"].bool()] for batch in batches])
    expected = np.linalg.eigvalsh(np.cov(x.numpy().T.astype(np.float64), bias=True) + np.outer(x.mean(0), x.mean(0)))
    np.testing.assert_allclose(bases[0].eigenvalues[:-1], expected[::-1][:-1], rtol=1e-4)
    for share in (0.5, 0.9, 1.0):
        for basis, width in zip(bases, widths_by_share(bases, share, multiple=2), strict=True):
            needed = next(k for k in range(25) if expected_share(basis.eigenvalues, k) >= share - 1e-12)
            assert width == min(24, needed + needed % 2)


def expected_share(eigenvalues: Tensor, count: int) -> float:
    return float(eigenvalues[:count].sum() / eigenvalues.sum())


def embedded(encoder: Encoder, batch: dict[str, Tensor]) -> Tensor:
    """The state of the embeddings' norm, before weight and bias."""
    embeddings = encoder.embeddings
    rows = embeddings.word[batch["input_ids"]] + embeddings.position[: batch["input_ids"].shape[1]]
    return torch.nn.functional.layer_norm(rows + embeddings.token_type[batch["token_type_ids"]], (24,), eps=1e-12)  # type: ignore[index]


def test_costs_are_those_of_the_products(networks: dict[Task, tuple[Checkpoint, Encoder]]) -> None:
    checkpoint, sliced = networks["feature-extraction"]
    module = slim_module(checkpoint, sliced)
    ids = INPUTS["input_ids"]
    head = 2 * ids.numel() * 11 * 24
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(input_ids=ids)
    shapes = tuple(layer_shape(layer) for layer in sliced.layers)
    assert [shape.widths for shape in shapes] == [(20, 9, 16), (16, 12, 5), (5, 22, 11)]
    per_token = flops_per_token(shapes, hidden_size=0, sequence_length=ids.shape[1])
    assert ids.numel() * per_token == counter.get_total_flops() - head
    assert flops_costs(sliced, sequence_length=ids.shape[1]).total(counts_of(sliced)) == per_token
    assert parameter_costs(sliced).total(counts_of(sliced)) == layer_parameters(sliced)
    assert count_parameters(sliced) == sum(parameter.numel() for parameter in module.parameters())


def test_a_sensitive_basis_keeps_what_the_outputs_depend_on(
    networks: dict[Task, tuple[Checkpoint, Encoder]],
) -> None:
    """The span of k columns is that of H^½ U, with the eigenvectors U of H^½ C H^½; the whole basis is orthonormal."""
    checkpoint, _ = networks["question-answering"]
    dense = checkpoint.encoder
    batches = [
        batch | {"start_positions": torch.tensor([1, 7, 3]), "end_positions": torch.tensor([4, 9, 5])}
        for batch in batches_of(make_model(BERT, "question-answering"))
    ]
    variance, bases = plain(dense, batches), spectra(dense, batches, sensitivity=0.9)
    for before, basis in zip(variance, bases, strict=True):
        torch.testing.assert_close(basis.vectors.T @ basis.vectors, torch.eye(24, dtype=torch.float64))
        assert all(before.variance(k) >= basis.variance(k) - 1e-9 for k in range(1, 24))
        restored = basis.restoring(9) @ basis.vectors[:, :9].T
        torch.testing.assert_close(
            restored @ basis.moments @ basis.vectors[:, :9], basis.moments @ basis.vectors[:, :9]
        )
    losses = [
        _task_loss(
            checkpoint,
            slice_network(dense, dense, batches, (24, 24, 24, 24, 24, 24, 6), bases=made, refit="none"),
            batches,
        )
        for made in (variance, bases)
    ]
    assert losses[1] < losses[0]


def _task_loss(checkpoint: Checkpoint, encoder: Encoder, batches: list[dict[str, Tensor]]) -> float:
    """The divergence from the dense network."""
    module, dense = slim_module(checkpoint, encoder), slim_module(checkpoint, checkpoint.encoder)
    with torch.no_grad():
        return sum(
            float(SPECS[encoder.task].divergence(module(**batch), dense(**batch), batch["attention_mask"], 1.0))
            for batch in batches
        )


# --- commands -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(networks: dict[Task, tuple[Checkpoint, Encoder]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sliced network for questions, on disk."""
    checkpoint, sliced = networks["question-answering"]
    path = tmp_path_factory.mktemp("sliced")
    slim_module(checkpoint, sliced).save_pretrained(path)
    return path


def test_an_export_says_that_it_is_not_the_originals_function(folder: Path, tmp_path: Path) -> None:
    result = prune_export.export(folder, tmp_path / "onnx", target="cpu", samples=4)
    assert result.record["sliced"] == list(WIDTHS)
    assert result.record["parity"]["reference"] == "the slim PyTorch network"
    assert result.record["summary"]["widths"] == {"before": 24, "after": list(WIDTHS)}
    assert result.parity is not None
    assert result.parity.passed
    assert any("sliced" in note for note in result.notes)
    assert prune_export.verify(folder, tmp_path / "onnx", samples=4).passed
    other = prune_export.load_slim(folder)
    with torch.no_grad():
        other.layers[1].feed_forward_skip.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    assert not prune_export.verify(tmp_path / "other", tmp_path / "onnx", samples=4).passed


def test_sizes_before_slicing_are_the_originals(
    networks: dict[Task, tuple[Checkpoint, Encoder]], folder: Path, tmp_path: Path
) -> None:
    for task, (checkpoint, sliced) in networks.items():
        slim_module(checkpoint, sliced).save_pretrained(tmp_path / task)
        summary, dense = inspect(tmp_path / task).summary, inspect(checkpoint.source.folder).summary
        assert summary.parameters_before == dense.parameters_before == count_parameters(checkpoint.encoder)
        assert summary.flops_before == dense.flops_before
        assert not summary.is_dense
    shown = Console(width=100, record=True, file=StringIO())
    shown.print(summary_table(inspect(folder).summary))
    assert "20 → 9 → 16" in shown.export_text()


def test_what_needs_a_hugging_face_model_is_refused(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    with pytest.raises(UnsupportedError, match="no Hugging Face model has"):
        load_reference_model(checkpoint)
    with pytest.raises(CheckpointError, match="hidden_weight = 0"):
        load_teacher(str(folder), checkpoint, device="cpu", with_states=True)
    teacher = load_teacher(str(folder), checkpoint, device="cpu", with_states=False)
    assert teacher(INPUTS)["start_logits"].shape == INPUTS["input_ids"].shape

"""Many texts through one model with little padding: sorted by length, answered in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.encoder import TASKS
from exporters.errors import UnsupportedError, UsageError
from prune_export.data.features import DOC_STRIDE, Feature, question_features, text_features
from prune_export.data.model_classes import class_names
from prune_export.data.tokenizer import load_tokenizer, longest_input, read_config
from prune_export.evaluation.evaluating import sequence_length
from prune_export.evaluation.running import BATCH_TOKENS, Row, run_features
from prune_export.evaluation.spans import best_answer
from prune_export.network import open_network

Input = str | tuple[str, str] | Mapping[str, str]


class Pipeline:
    """Answers like transformers' pipelines, for lists of texts.

        answer = prune_export.Pipeline("out")([("Where does Mira live?", "Mira lives in Oslo.")])[0]["answer"]

    Texts are run in batches of like length, as many at a time as `batch_tokens` allows, which for texts of mixed lengths
    saves most of what fixed batches spend on padding. What comes back for each input:

    - question-answering, for `(question, context)` or a mapping with these keys: `answer`, `score`, `start`, `end`; long
      contexts are read in windows.
    - text-classification, for a text or a pair of texts: `label`, `score` (of a model with one output: its number).
    - token-classification: a list of `entity`, `score`, `word`, `start`, `end`, one for each token.
    - feature-extraction: the last hidden states, float32 `[length, hidden]`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        task: str | None = None,
        provider: str | None = None,
        threads: int | None = None,
        batch_tokens: int | None = None,
        max_seq_length: int | None = None,
        doc_stride: int = DOC_STRIDE,
    ) -> None:
        """Opens `model`: an exported folder, a `.onnx` file, a checkpoint's folder or a hub id.

        `task`: None for that of the model. `provider` is "cpu" or "cuda" (None: the model's own, or the CPU), `threads`
        those inside an operation of ONNX Runtime. `batch_tokens` is how many tokens a batch holds with its padding
        (None: 2048, on CUDA 16384). `max_seq_length`, in tokens: where contexts are cut into windows (None: 384), which
        share `doc_stride` tokens, and where other texts end (None: the model's maximum).

        Raises:
            CheckpointError, OutputError, ProviderError, UsageError: it cannot be opened.
            UnsupportedError: the task is none of the four.
        """
        network = open_network(model, task=task, provider=provider, threads=threads)
        if network.task is None:
            raise UsageError(f"{model}: no record says what it is for; give task=, one of {', '.join(TASKS[:4])}")
        if network.task not in TASKS[:4]:
            raise UnsupportedError(f"{model}: is for {network.task}; a Pipeline can do {', '.join(TASKS[:4])}")
        self.network, self.task = network, network.task
        self.tokenizer, config = load_tokenizer(network.folder), read_config(network.folder)
        self.labels = class_names(config)
        if max_seq_length is None and self.task != "question-answering":
            max_seq_length = longest_input(config)
        self.max_seq_length = sequence_length(config, self.task, max_seq_length)
        self.doc_stride = doc_stride
        self.batch_tokens = BATCH_TOKENS[provider or "cpu"] if batch_tokens is None else batch_tokens

    def __call__(self, inputs: Sequence[Input]) -> list[Any]:
        """What the model says to each of `inputs`, in their order.

        Raises:
            UsageError: an input has another form than the task takes.
        """
        if isinstance(inputs, str | Mapping):
            raise UsageError("expected a list of inputs; put the single one into a list")
        if not inputs:
            return []
        if self.task == "question-answering":
            return self._answers([_pair(item) for item in inputs])
        texts = [item if isinstance(item, str) else _text_pair(item) for item in inputs]
        return self._texts([(text, None) if isinstance(text, str) else text for text in texts])

    def _answers(self, pairs: list[tuple[str, str]]) -> list[Any]:
        features = question_features(
            pairs, self.tokenizer, max_seq_length=self.max_seq_length, doc_stride=self.doc_stride
        )
        windows: list[list[tuple[Feature, Any, Any]]] = [[] for _ in pairs]
        for feature, row in zip(features, self._run(features), strict=True):
            windows[feature.example].append((feature, row["start_logits"], row["end_logits"]))
        answers = [best_answer(context, found) for (_, context), found in zip(pairs, windows, strict=True)]
        return [
            {"answer": answer.text, "score": answer.probability, "start": answer.start, "end": answer.end}
            for answer in answers
        ]

    def _texts(self, texts: list[tuple[str, str | None]]) -> list[Any]:
        if len({pair is None for _, pair in texts}) > 1:
            raise UsageError("expected only single texts or only pairs; found both")
        by_token = self.task == "token-classification"
        features = text_features(texts, self.tokenizer, max_seq_length=self.max_seq_length, with_offsets=by_token)
        rows = self._run(features)
        if self.task == "feature-extraction":
            return [row["last_hidden_state"] for row in rows]
        if by_token:
            return [
                self._entities(text, feature, row["logits"])
                for (text, _), feature, row in zip(texts, features, rows, strict=True)
            ]
        return [self._label(row["logits"]) for row in rows]

    def _run(self, features: Sequence[Feature]) -> list[Row]:
        return run_features(
            self.network,
            features,
            self.tokenizer,
            max_tokens=self.batch_tokens,
            per_token=self.task != "text-classification",
        )

    def _label(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        if len(logits) == 1:
            return {"label": self.labels[0], "score": float(logits[0])}
        best = int(np.argmax(logits))
        return {"label": self.labels[best], "score": float(_softmax(logits)[best])}

    def _entities(self, text: str, feature: Feature, logits: NDArray[np.float32]) -> list[dict[str, Any]]:
        assert feature.offsets is not None
        found = []
        for (start, end), row in zip(feature.offsets.tolist(), logits, strict=True):
            if start >= 0:
                label = self._label(row)
                place = {"word": text[start:end], "start": start, "end": end}
                found.append({"entity": label["label"], "score": label["score"], **place})
        return found


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(weights / weights.sum())


def _pair(item: Input) -> tuple[str, str]:
    if isinstance(item, Mapping) and {"question", "context"} <= set(item):
        return item["question"], item["context"]
    return _text_pair(item)


def _text_pair(item: Input) -> tuple[str, str]:
    if not isinstance(item, str | Mapping) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return item[0], item[1]
    raise UsageError(f"expected a pair of texts; found {item!r:.60}")

"""Many texts through one model with little padding: sorted by length, answered in the order given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.encoder import TASKS, Task
from exporters.errors import UnsupportedError, UsageError
from exporters.providers import CPU, PROVIDERS
from prune_export.checkpoint.tokenizer import load_tokenizer, longest_input, read_config
from prune_export.data.features import Feature, question_features, text_features
from prune_export.data.model_classes import class_names
from prune_export.evaluation.evaluate_network import check_outputs, sequence_length
from prune_export.evaluation.pipeline_answers import best_answer
from prune_export.evaluation.running import Row, run_features
from prune_export.files.reading import shown
from prune_export.network.opening import Network, open_network
from prune_export.options.keywords import method_from_keywords
from prune_export.options.session import PipelineOptions

Input = str | Sequence[str] | Mapping[str, str]


class Pipeline:
    """Answers like transformers' pipelines, for lists of texts.

        answer = prune_export.Pipeline("out")([("Where does Mira live?", "Mira lives in Oslo.")])[0]["answer"]

    Texts are run in batches of like length, as many at a time as `batch_tokens` allows, which for texts of mixed lengths
    saves most of what fixed batches spend on padding. What comes back for each input:

    - question-answering, for `(question, context)` or a mapping with these keys: `answer`, `score`, `start`, `end`, those of
      transformers 4's pipeline; long contexts are read in windows, questions up to their 64th token.
    - text-classification, for a text, a pair of texts or a mapping with `text` and `text_pair`: `label`, `score`; with
      `top_k` other than 1 a list of these, the best first. The score is the sigmoid of the class's logit where config.json
      says `"problem_type": "multi_label_classification"` or where there is one class, the logit itself where it says
      "regression", otherwise the softmax.
    - token-classification: a list of `entity`, `score`, `word`, `start`, `end`, one for each token.
    - feature-extraction: the last hidden states, float32 `[length, hidden]`.
    """

    @method_from_keywords(PipelineOptions, Task=Task)
    def __init__(self, options: PipelineOptions) -> None:
        """Opens `model`.

        Raises:
            CheckpointError, OutputError, ProviderError, UsageError: it cannot be opened.
            UnsupportedError: the task is none of the four.
        """
        model = options.model
        network = open_network(model, task=options.task, provider=options.provider, threads=options.threads)
        if network.task is None:
            raise UsageError(f"{model}: no record says what it is for; give task=, one of {', '.join(TASKS[:4])}")
        if network.task not in TASKS[:4]:
            raise UnsupportedError(f"{model}: is for {network.task}; a Pipeline can do {', '.join(TASKS[:4])}")
        self.network, self.task = network, network.task
        _check_outputs(network, self.task)
        self.tokenizer, config = load_tokenizer(network.folder), read_config(network.folder)
        self.labels, self.problem_type = class_names(config), config.get("problem_type")
        max_seq_length = options.max_seq_length
        if max_seq_length is None and self.task != "question-answering":
            max_seq_length = longest_input(config)
        self.max_seq_length = sequence_length(config, self.task, max_seq_length)
        self.doc_stride, self.max_answer_length = options.doc_stride, options.max_answer_length
        self.handle_impossible_answer, self.top_k = options.handle_impossible_answer, options.top_k
        tokens = PROVIDERS[options.provider or CPU.name].batch_tokens
        self.batch_tokens = tokens if options.batch_tokens is None else options.batch_tokens

    def __call__(self, inputs: Sequence[Input]) -> list[Any]:
        """What the model says to each of `inputs`, in their order.

        Raises:
            UsageError: an input has another form than the task takes.
        """
        items = _listed(inputs)
        if not items:
            return []
        if self.task == "question-answering":
            return self._answers([_pair(item, "question", "context") for item in items])
        return self._texts(
            [(_text(item), None) if isinstance(item, str) else _pair(item, "text", "text_pair") for item in items]
        )

    def _answers(self, pairs: list[tuple[str, str]]) -> list[Any]:
        features = question_features(
            pairs, self.tokenizer, max_seq_length=self.max_seq_length, doc_stride=self.doc_stride, with_words=True
        )
        windows: list[list[tuple[Feature, Any, Any]]] = [[] for _ in pairs]
        for feature, row in zip(features, self._run(features), strict=True):
            windows[feature.example].append((feature, row["start_logits"], row["end_logits"]))
        return [
            asdict(
                best_answer(
                    context,
                    found,
                    max_answer_length=self.max_answer_length,
                    may_be_nothing=self.handle_impossible_answer,
                )
            )
            for (_, context), found in zip(pairs, windows, strict=True)
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
        return [self._classes(row["logits"]) for row in rows]

    def _run(self, features: Sequence[Feature]) -> list[Row]:
        return run_features(
            self.network,
            features,
            self.tokenizer,
            max_tokens=self.batch_tokens,
            per_token=self.task != "text-classification",
        )

    def _classes(self, logits: NDArray[np.float32]) -> Any:
        self._check_classes(logits, dimensions=1)
        if self.problem_type == "regression":
            scores = logits.astype(np.float64)
        elif self.problem_type == "multi_label_classification" or len(logits) == 1:
            scores = _sigmoid(logits)
        else:
            scores = _softmax(logits)
        order = np.argsort(-scores, kind="stable")
        found = [{"label": self.labels[place], "score": float(scores[place])} for place in order[: self.top_k]]
        return found[0] if self.top_k == 1 else found

    def _entities(self, text: str, feature: Feature, logits: NDArray[np.float32]) -> list[dict[str, Any]]:
        self._check_classes(logits, dimensions=2)
        assert feature.offsets is not None
        found = []
        for (start, end), row in zip(feature.offsets.tolist(), logits, strict=True):
            if start >= 0:
                best = int(np.argmax(row))
                place = {"word": text[start:end], "start": start, "end": end}
                found.append({"entity": self.labels[best], "score": float(_softmax(row)[best]), **place})
        return found

    def _check_classes(self, logits: NDArray[np.float32], *, dimensions: int) -> None:
        if logits.ndim != dimensions or logits.shape[-1] != len(self.labels):
            raise UnsupportedError(
                f"{self.network.name}: {self.task} needs logits for the {len(self.labels)} classes that config.json names; "
                f"found the shape {list(logits.shape)}"
            )


def _check_outputs(network: Network, task: str) -> None:
    if task == "feature-extraction":
        if "last_hidden_state" not in network.outputs:
            raise UnsupportedError(
                f"{network.name}: {task} needs the output last_hidden_state; found {', '.join(network.outputs)}"
            )
    else:
        check_outputs(network, task)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(weights / weights.sum())


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))


def _listed(inputs: Any) -> list[Any]:
    single = isinstance(inputs, str | bytes | bytearray | memoryview | Mapping | Set)
    try:
        if not single and isinstance(inputs, Collection):
            return list(inputs)
    except Exception as error:  # of somebody else's class, such as an array without dimensions
        raise UsageError(f"expected a list of inputs; found {shown(inputs)}") from error
    raise UsageError(f"expected a list of inputs; found {shown(inputs)}: put the single one into a list")


def _pair(item: Any, first: str, second: str) -> tuple[str, str]:
    if isinstance(item, Mapping) and {first, second} <= set(item):
        item = (item[first], item[second])
    if isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return _text(item[0]), _text(item[1])
    raise UsageError(f"expected a pair of texts, ({first}, {second}); found {shown(item)}")


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"expected text; found half a character, at {error.start} of {shown(text)}") from error
    return text

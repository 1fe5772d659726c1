"""`prune_export.Pipeline` answers many texts with little padding: they run sorted by length."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import UnsupportedError, UsageError
from exporters.providers import CPU, find_provider
from exporters.tasks import Task
from prune_export.checkpoint.tokenizer import load_tokenizer, longest_input, read_config
from prune_export.data.features import Feature, question_features, sequence_length, text_features
from prune_export.data.model_classes import class_names
from prune_export.evaluation.evaluate_network import check_outputs
from prune_export.evaluation.pipeline_answers import pipeline_answer
from prune_export.evaluation.running import Row, run_features
from prune_export.evaluation.spans import windows_of
from prune_export.files.reading import shown
from prune_export.network.opening import open_network
from prune_export.options.keywords import method_from_keywords
from prune_export.options.session import PipelineOptions
from prune_export.tasks import SPECS
from prune_export.tasks.spec import Classes

Input = str | Sequence[str] | Mapping[str, str]

_TASKS = tuple(name for name, spec in SPECS.items() if spec.in_pipeline)


class Pipeline:
    """Answers like transformers' pipelines, for lists of texts.

        answer = prune_export.Pipeline("out")([("Where does Mira live?", "Mira lives in Oslo.")])[0]["answer"]

    Texts run in batches of similar length, as many at a time as `batch_tokens` allows, which saves most of the padding that
    fixed batches of mixed texts need. The answer to each input depends on the task:

    - question-answering takes `(question, context)` or a mapping with these keys. It returns `answer`, `score`, `start` and
      `end`, which are those of transformers 4's pipeline. Long contexts are read in windows, questions up to 64 tokens.
    - text-classification takes a text, a pair of texts, or a mapping with `text` and `text_pair`. It returns `label` and
      `score`, with `top_k` other than 1 a list of these, the best first. The score is the sigmoid of the class's logit where
      config.json says `"problem_type": "multi_label_classification"` or where there is one class. It is the logit itself
      where config.json says "regression", otherwise the softmax.
    - token-classification returns a list of `entity`, `score`, `word`, `start` and `end`, one per token.
    - feature-extraction returns the last hidden states, float32 `[length, hidden]`.
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
            raise UsageError(f"{model}: no record says what it is for; give task=, one of {', '.join(_TASKS)}")
        if network.task not in _TASKS:
            raise UnsupportedError(f"{model}: is for {network.task}; a Pipeline can do {', '.join(_TASKS)}")
        self.network, self.task, self._spec = network, network.task, SPECS[network.task]
        check_outputs(network, self.task)
        self.tokenizer, config = load_tokenizer(network.folder), read_config(network.folder)
        self.labels, self.problem_type = class_names(config), config.get("problem_type")
        max_seq_length = options.max_seq_length
        if max_seq_length is None and not self._spec.takes_questions:
            max_seq_length = longest_input(config)
        self.max_seq_length = sequence_length(config, self.task, max_seq_length)
        self.doc_stride, self.max_answer_length = options.doc_stride, options.max_answer_length
        self.handle_impossible_answer, self.top_k = options.handle_impossible_answer, options.top_k
        tokens = find_provider(options.provider or CPU.name).batch_tokens
        self.batch_tokens = tokens if options.batch_tokens is None else options.batch_tokens

    def __call__(self, inputs: Sequence[Input]) -> list[Any]:
        """Returns the answer to each of `inputs`, in their order.

        Raises:
            UsageError: an input has another form than the task takes.
        """
        items = _listed(inputs)
        if not items:
            return []
        if self._spec.takes_questions:
            return self._answers([_pair(item, "question", "context") for item in items])
        return self._texts(
            [(_text(item), None) if isinstance(item, str) else _pair(item, "text", "text_pair") for item in items]
        )

    def _answers(self, pairs: list[tuple[str, str]]) -> list[Any]:
        features = question_features(
            pairs, self.tokenizer, max_seq_length=self.max_seq_length, doc_stride=self.doc_stride, with_words=True
        )
        windows = windows_of(features, self._run(features), len(pairs))
        return [
            asdict(
                pipeline_answer(
                    context,
                    of_context,
                    max_answer_length=self.max_answer_length,
                    may_be_nothing=self.handle_impossible_answer,
                )
            )
            for (_, context), of_context in zip(pairs, windows, strict=True)
        ]

    def _texts(self, texts: list[tuple[str, str | None]]) -> list[Any]:
        if len({pair is None for _, pair in texts}) > 1:
            raise UsageError("expected only single texts or only pairs; found both")
        features = text_features(
            texts, self.tokenizer, max_seq_length=self.max_seq_length, with_offsets=self._spec.needs_offsets
        )
        return [
            self._decoded(text, feature, row)
            for (text, _), feature, row in zip(texts, features, self._run(features), strict=True)
        ]

    def _run(self, features: Sequence[Feature]) -> list[Row]:
        return run_features(
            self.network,
            features,
            self.tokenizer,
            max_tokens=self.batch_tokens,
            per_token=self._spec.head.answers_per_token,
        )

    def _decoded(self, text: str, feature: Feature, row: Row) -> Any:
        assert self._spec.decode is not None
        if self._spec.has_classes:
            self._check_classes(row["logits"])
        classes = Classes(self.labels, self.problem_type, self.top_k)
        return self._spec.decode(row, text, feature.offsets, classes)

    def _check_classes(self, logits: NDArray[np.float32]) -> None:
        dimensions = 2 if self._spec.head.answers_per_token else 1
        if logits.ndim != dimensions or logits.shape[-1] != len(self.labels):
            raise UnsupportedError(
                f"{self.network.name}: {self.task} needs logits for the {len(self.labels)} classes that config.json names; "
                f"found the shape {list(logits.shape)}"
            )


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

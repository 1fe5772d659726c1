"""Tries the installed distribution in an empty folder: `make package` runs it outside the source tree.

Not a test of pytest: nothing here may come from the source tree, nor need more than the extra `cpu`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForQuestionAnswering

import exporters
import prune_export


def command(*words: str, code: int = 0) -> str:
    """Runs the installed command; returns what it printed, which must hold no traceback."""
    program = Path(sys.executable).parent / "prune-export"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def main() -> None:
    for package in (prune_export, exporters):
        assert package.__file__ is not None
        assert Path(sys.prefix) in Path(package.__file__).parents, "the source tree's package, not the installed one"
        assert (Path(package.__file__).parent / "py.typed").is_file()
    facts = metadata("prune-export")
    assert facts["Version"] == prune_export.__version__
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts["License-File"] == "LICENSE"
    assert command("--version").startswith(f"prune-export {prune_export.__version__}\n")

    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertForQuestionAnswering(BertConfig(**sizes, num_hidden_layers=2)).eval()
    layer = model.bert.encoder.layer[0]
    for linear in (layer.attention.self.value, layer.intermediate.dense):
        linear.weight.data[:8] = 0
        linear.bias.data[:8] = 0
    model.save_pretrained("checkpoint")
    command("--model", "checkpoint", "--output", "onnx", "--quiet")
    command("verify", "--model", "checkpoint", "--onnx", "onnx", "--quiet")
    ids = np.arange(24).reshape(2, 12)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    answers = prune_export.load_session("onnx").run(inputs)
    reference = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    assert np.abs(answers["start_logits"] - reference.start_logits.detach().numpy()).max() < 1e-4
    sections = (
        'model = "checkpoint"',
        'output = "run"',
        "[data]",
        'train = "a"',
        "[schedule]",
        "steps = 1",
        "[method]",
    )
    Path("recipe.toml").write_text("\n".join((*sections, 'kind = "none"')))
    assert "prune-export[train]" in command("train", "recipe.toml", code=1)
    print(f"prune-export {prune_export.__version__}: installed, exported, verified, ran")


if __name__ == "__main__":
    import os

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        main()

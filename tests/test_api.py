"""What is public: names, the command line's shape, how fast help answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prune_export
from prune_export.cli.main import main
from tests.models import FAMILY_CASES, make_model, save

PUBLIC = [
    "BenchReport",
    "BenchmarkError",
    "CheckpointError",
    "DataError",
    "DryRun",
    "Evaluation",
    "ExportResult",
    "Inspection",
    "LatencyTable",
    "LayerPlan",
    "MissingDependencyError",
    "OutputError",
    "ParityError",
    "ParityReport",
    "Pipeline",
    "Plan",
    "PlanError",
    "ProviderError",
    "PruneExportError",
    "PruneResult",
    "QualityError",
    "Recipe",
    "SearchResult",
    "SlimModel",
    "SurgeryError",
    "TrainResult",
    "TrainingError",
    "UnsupportedError",
    "UsageError",
    "WeightsError",
    "WriteError",
    "__version__",
    "bench",
    "dry_run",
    "evaluate",
    "export",
    "inspect",
    "load_session",
    "load_slim",
    "profile",
    "prune",
    "read_plan",
    "read_recipe",
    "search",
    "slim",
    "train",
    "verify",
]


def test_public_names_are_a_list() -> None:
    assert prune_export.__all__ == PUBLIC
    for name in PUBLIC:
        value = getattr(prune_export, name)
        assert callable(value) or name == "__version__", name
        assert value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prune_export.nothing  # type: ignore[attr-defined]


def test_functions_stay_functions_whatever_is_imported_first() -> None:
    """A submodule of the same name would shadow them."""
    code = (
        "import prune_export, prune_export.verbs.export, prune_export.verbs.verify, prune_export.checkpoint.inspection\n"
        "import prune_export.verbs.slim, prune_export.benchmark.run\n"
        "import prune_export.evaluation.evaluate_network, prune_export.verbs.pipeline\n"
        "import prune_export.pruning.one_shot, prune_export.verbs.profile, prune_export.training.run\n"
        "names = ('export', 'verify', 'inspect', 'slim', 'load_slim', 'bench', 'evaluate', 'prune', 'profile', 'train')\n"
        "print([type(getattr(prune_export, name)).__name__ for name in names])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(["function"] * 10)


def test_importing_is_instant_and_light() -> None:
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "datasets", "sklearn", "scipy")
    code = f"import sys, prune_export; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *([verb, "--help"] for verb in ("export", "verify", "inspect", "evaluate", "bench", "prune", "train")),
    ],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """0.5 s is the promise; what decides it is that no heavy library is imported."""
    code = (
        "import sys\nfrom prune_export.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'rich') if m in sys.modules])"
    )
    start = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 5  # a loaded machine; a heavy import takes longer than that there
    assert found.stdout.strip().endswith("[]")
    assert "--model" in found.stdout


def test_exporters_never_import_prune_export() -> None:
    code = (
        "import sys, exporters.cost, exporters.runtime, exporters.onnx.writer, exporters.onnx.targets\n"
        "import exporters.onnx.serialize\nprint([m for m in sys.modules if m.startswith('prune_export')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_onnxruntime_the_message_names_the_extra(tmp_path: Path) -> None:
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    code = (
        "import sys\nsys.modules['onnxruntime'] = None\nfrom prune_export.cli.main import main\n"
        f"sys.exit(main(['--model', {str(checkpoint)!r}, '--output', {str(tmp_path / 'out')!r}, '--quiet', *sys.argv[1:]]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "pip install 'prune-export[cpu]'" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()
    without = subprocess.run([sys.executable, "-c", code, "--no-verify"], capture_output=True, text=True, check=False)
    assert without.returncode == 0, without.stderr
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_export_inspect_and_verify_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(FAMILY_CASES[0], "question-answering")
    model.bert.encoder.layer[0].attention.output.dense.weight.data[:, :6] = 0
    checkpoint = str(save(model, tmp_path / "checkpoint"))
    output = str(tmp_path / "out" / "model.onnx")

    assert main(["--model", checkpoint, "--output", output, "--dry-run"]) == 0
    assert "3 of 4" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["inspect", "--model", checkpoint, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["layers"][0]["heads"] == {"before": 4, "after": 3, "kept": [1, 2, 3]}
    assert found["plan"]["layers"][0]["heads"] == "1-3"

    assert main(["--model", checkpoint, "--output", output, "--samples", "4", "--target", "cpu"]) == 0
    shown = capsys.readouterr()
    for words in ("3 of 4", "1-3", "parameters", "FLOPs per token", "passed", str(tmp_path / "out")):
        assert words in shown.out, words
    assert "Comparing with PyTorch" in shown.err
    record = json.loads((tmp_path / "out" / "prune_export.json").read_text())
    assert record["format"] == "prune-export/record"
    assert record["source"]["weights_sha256"].keys() == {"model.safetensors"}
    for key in ("task", "target", "dtype", "opset", "plan", "summary", "parity", "versions", "files"):
        assert record[key], key
    assert record["parity"]["passed"] is True
    assert record["summary"]["flops_per_token"]["40"]["after"] < record["summary"]["flops_per_token"]["40"]["before"]

    assert main(["--model", checkpoint, "--output", output]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["--model", checkpoint, "--output", output, "--overwrite", "--json", "--quiet", "--no-verify"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["parity"] is None
    assert shown.err == ""

    junit = tmp_path / "junit.xml"
    arguments = ["verify", "--model", checkpoint, "--onnx", str(tmp_path / "out"), "--samples", "4"]
    assert main([*arguments, "--junit", str(junit)]) == 0
    assert "passed" in capsys.readouterr().out
    assert junit.is_file()
    model.qa_outputs.bias.data += 1
    save(model, tmp_path / "checkpoint")
    assert main(arguments) == 3
    shown = capsys.readouterr()
    assert "failed" in shown.out
    assert "start_logits differs by 1" in shown.err
    assert main([*arguments, "--json", "--quiet"]) == 3
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_the_same_input_gives_the_same_folder(tmp_path: Path) -> None:
    checkpoint = save(make_model(FAMILY_CASES[0], "question-answering"), tmp_path / "checkpoint")
    for name in ("one", "two"):
        prune_export.export(checkpoint, tmp_path / name, target="cpu", samples=4)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name

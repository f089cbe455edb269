# Both commands make the virtual environment if there is none, and install what pyproject.toml and constraints.txt say.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo

.PHONY: demo test bench install lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard src/affuse/ops/native/*.cpp src/affuse/ops/native/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "affuse needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	@rm -rf $(DEMO)
	$(BIN)/affuse fit recipes/mco_e/eyes.yaml --training.epochs 15 --out $(DEMO)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

bench: install
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[bench]'
	@# spikingjelly brings a torchaudio that its neurons do not need; where it does not fit torch, transformers fails on it.
	@$(BIN)/python -c 'import torchaudio' 2> /dev/null || $(BIN)/pip uninstall --disable-pip-version-check -q -y torchaudio
	for name in scan events decoding spikes experts backbones systems emoe_cost mome_speed fer_cost fer_linear; do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) build dist runs

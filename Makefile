# Two commands for newcomers. Both make .venv when it is missing, and install into it only when pyproject.toml has changed.
#   make demo    compress a real scan with the language model, prove it, and compare with other codecs
#   make test    everything that CI checks
#   make sbom    a bill of materials of .venv, sbom.json (CycloneDX), and what is known against it (needs PyPI)
# PYTHON is the Python (3.11 to 3.13) that makes .venv: make demo PYTHON=python3.13

PYTHON ?= python3
# A plain Linux machine gets torch's CUDA build from this, a few GB that nothing here needs. For the CPU build add PyTorch's
# CPU wheel index, named on its installation page, to pip's configuration (PIP_EXTRA_INDEX_URL) and say TORCH=torch==2.13.0+cpu.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALLED := $(VENV)/installed

.PHONY: demo test sbom
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	@$(BIN)/python tools/demo.py

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict medzip tools/unmdz.py
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# In a place of their own, so that the tools are not in the bill.
sbom: $(INSTALLED)
	@test -x $(VENV)-sbom/bin/python || $(PYTHON) -m venv $(VENV)-sbom
	@$(VENV)-sbom/bin/python -m pip --disable-pip-version-check -qq install 'cyclonedx-bom>=7.5,<8' 'pip-audit>=2.10,<3'
	$(VENV)-sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON -o sbom.json $(BIN)/python
	$(VENV)-sbom/bin/pip-audit --strict --skip-editable --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time this takes a few minutes."
	@$(PIP) install "$(TORCH)"
	@$(PIP) install --editable '.[train,bench,dev]'
	@touch $@

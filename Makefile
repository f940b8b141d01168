# `make demo` and `make test` work from a fresh clone: they set up .venv and install the tested versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test test-slow test-latex lint clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("groma-eval needs Python 3.11 or newer; this is %d.%d (choose another with: make PYTHON=python3.11)" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/groma-eval demo --out $(DEMO)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

test-latex: $(VENV)/.installed
	@command -v pdflatex >/dev/null || { echo "no TeX engine: install pdflatex, such as Debian's texlive-latex-base and texlive-latex-extra"; exit 1; }
	$(BIN)/python -m pytest tests/groma_eval/test_table_latex.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) runs build dist *.egg-info

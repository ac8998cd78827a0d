# Needs python3 (3.11 or later) and make, and for tests Node 20 and npm; everything else goes into .venv and clients/js/node_modules.

PYTHON ?= python3
BIN := .venv/bin

JS := clients/js

.PHONY: install run clients test check audit bench proof

install: .venv/installed

.venv/installed: pyproject.toml clients/python/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Tidings needs Python 3.11 or later") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv || { echo 'Where Debian or Ubuntu keep venv apart: apt-get install python3-venv'; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ./clients/python --editable '.[dev]'
	touch $@

run: install
	$(BIN)/tidings serve --dev

# The JavaScript client, and the copy of it that the service hands out.
clients: $(JS)/node_modules/.built
	mkdir -p service/web/static/client
	rm -f service/web/static/client/*.js
	cp $(JS)/dist/*.js service/web/static/client/

$(JS)/node_modules/.built: $(JS)/node_modules/.installed $(JS)/tsconfig.json $(wildcard $(JS)/src/*.ts)
	rm -rf $(JS)/dist
	cd $(JS) && npm run --silent build
	touch $@

$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json
	cd $(JS) && npm ci --silent --no-audit --no-fund
	touch $@

# The copy is not made anew here: a test holds it against what is built.
test: install $(JS)/node_modules/.built
	$(BIN)/python -m pytest -n auto --dist loadfile

check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# What is installed, held against PyPI's advisories: it fails where one is known, and where it cannot be asked.
audit: install
	mkdir -p dist
	$(BIN)/python -m pip freeze --exclude-editable >dist/installed.txt
	$(BIN)/cyclonedx-py environment --output-reproducible --of JSON -o dist/sbom.json --pyproject pyproject.toml $(BIN)/python
	$(BIN)/pip-audit --strict --progress-spinner off --no-deps --disable-pip -r dist/installed.txt

bench: .venv/bench
	$(BIN)/python -m bench

proof: install
	$(BIN)/python -m proof --document

.venv/bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ./clients/python --editable '.[bench]'
	touch $@

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= output
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run run-learned test test-slow lint docs site notebooks wheel-check clean

# The main job: a catalogue of a real radio image, from a fresh checkout, by the classical route
# and by both networks (without torch), and how far they agree.
run: $(VENV)/.core
	$(PIP) --no-deps astroquery
	$(PIP) --editable ".[onnx]"
	$(BIN)/cyclades sample magpis $(OUTPUT)
	$(BIN)/cyclades run $(OUTPUT)/magpis.fits --output $(OUTPUT) --products quicklook
	for route in yolo mask_rcnn; do \
		$(BIN)/cyclades run $(OUTPUT)/magpis.fits --route $$route --output $(OUTPUT)/$$route \
			--products quicklook && \
		$(BIN)/cyclades compare classical=$(OUTPUT)/magpis.catalogue.fits \
			$$route=$(OUTPUT)/$$route/magpis.catalogue.fits || exit 1; \
	done
	@echo "The catalogue is $(OUTPUT)/magpis.catalogue.fits, the picture $(OUTPUT)/magpis.quicklook.png"

# The same with networks run by torch: one that detects, and a route that is learned at every stage.
run-learned: $(VENV)/.core
	$(PIP) --no-deps astroquery
	$(PIP) --editable ".[learned]"
	$(BIN)/cyclades sample magpis $(OUTPUT)
	$(BIN)/cyclades run $(OUTPUT)/magpis.fits --output $(OUTPUT) --products quicklook
	$(BIN)/cyclades run $(OUTPUT)/magpis.fits --route mask_rcnn --set detection.runtime=torch \
		--output $(OUTPUT)/mask_rcnn --products quicklook
	$(BIN)/cyclades run $(OUTPUT)/magpis.fits --route mask_rcnn --set detection.runtime=torch \
		--set 'background={name: masked, weights: mask_rcnn, runtime: torch}' \
		--set characterization=learned \
		--set 'cataloguing=[components, reliability]' \
		--output $(OUTPUT)/learned --products quicklook
	$(BIN)/cyclades compare classical=$(OUTPUT)/magpis.catalogue.fits \
		mask_rcnn=$(OUTPUT)/mask_rcnn/magpis.catalogue.fits \
		learned=$(OUTPUT)/learned/magpis.catalogue.fits \
		--image $(OUTPUT)/magpis.fits --report $(OUTPUT)/report
	@echo "The catalogues are $(OUTPUT)/mask_rcnn/magpis.catalogue.fits (learned detection) and" \
		"$(OUTPUT)/learned/magpis.catalogue.fits (learned stages)"
	@echo "The comparison with the classical route is $(OUTPUT)/report/report.html"

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow" --nbmake

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.core
	$(BIN)/python -m cyclades.pipeline.reference docs

# these pages and the reference from docstrings, as HTML; a warning is a failure
site: $(VENV)/.site
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs build/site
	@echo "The site is build/site/index.html"

# both halves of every notebook as the one that was changed last
notebooks: $(VENV)/.test
	$(BIN)/jupytext --quiet --sync notebooks/[0-9]*.py

wheel-check: $(VENV)/.test
	$(BIN)/python tools/check_wheel.py

clean:
	rm -rf $(VENV) $(OUTPUT) build dist

$(VENV)/.core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.site: $(VENV)/.core
	$(PIP) --editable ".[docs]"
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) --editable ".[test,learned,pretraining,yolo,transformers,efficientdet,onnx,notebooks,docs,distributed,viewer]"
	@touch $@

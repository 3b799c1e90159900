# Everything sets itself up in .venv; `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint types unit wheel clean

demo: .venv/ready
	$(BIN)/shaketable demo --out demo

test: lint types unit

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[attacks,dask,huggingface,loky,pandas,ray,slurm,text]' \
		ruff pyright pytest pytest-xdist hypothesis beartype jaxtyping build duckdb transformers
	$(BIN)/python -c "import torch; assert torch.__version__.startswith('2.13.0'), f'installing replaced torch: {torch.__version__}'"
	touch $@

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/pyright

unit: .venv/ready
	$(BIN)/pytest -m "not slow" -n 2

slow: .venv/ready
	$(BIN)/pytest -m slow -n 2

wheel: .venv/ready
	rm -rf dist
	$(BIN)/python -m build --outdir dist

clean:
	rm -rf .venv dist demo .pytest_cache .ruff_cache .hypothesis

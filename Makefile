# Short names for the README's commands; `make` is not needed for anything.
.PHONY: start test lock clean
start:
	python3 start.py
test:
	python3 start.py test
lock: # what start.py test installs; torch and what it brings for GPUs stay free, since they differ by index
	uvx uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header \
		| grep -vE '^(torch|triton|nvidia-|cuda-)' > constraints.txt
clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

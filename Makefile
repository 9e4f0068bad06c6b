# Short names for the README's commands; `make` is not needed for anything.
.PHONY: start test lock audit licences clean
start:
	python3 start.py
test:
	python3 start.py test
lock: # what start.py test installs; torch and what it brings for GPUs stay free, since they differ by index
	uvx uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-annotate --no-header \
		| grep -vE '^(torch|triton|nvidia-|cuda-)' > constraints.txt
audit: # known vulnerabilities of all that stands in .venv; what no advisory knows of fails as well
	uvx uv pip freeze --python .venv/bin/python --exclude-editable | sed 's/+[a-z0-9.]*$$//' > .venv/installed.txt
	uvx pip-audit --strict --no-deps --disable-pip --requirement .venv/installed.txt
licences: # of the same
	uvx pip-licenses --python .venv/bin/python --format markdown
clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Short names for the README's commands; `make` is not needed for anything.
.PHONY: start test clean
start:
	python3 start.py
test:
	python3 start.py test
clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.PHONY: check check-static format test slow

check: check-static test

check-static:
	ruff format --check .
	ruff check .
	mypy
	lint-imports

format:
	ruff format .
	ruff check --fix .

test:
	python -m pytest -q -n auto -m "not slow"

slow:
	python -m pytest -q -n auto -m slow

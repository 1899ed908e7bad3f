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
	python -m pytest -q -m "not slow" -n auto

slow:
	python -m pytest -q -m "slow and not serial" -n auto --durations=30
	python -m pytest -q -m "slow and serial"

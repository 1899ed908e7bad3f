"""Preload module of Dask workers that must not share the client's folder, as on a machine that cannot access it."""

from ablations.execution.dask import worker

worker.shares_folder = lambda *_: False

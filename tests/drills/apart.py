"""Preloaded by Dask workers that are not to see the client's folder, as on a machine that has it not."""

from ablations.execution.dask import worker as cluster_worker

cluster_worker.sees = lambda *_: False

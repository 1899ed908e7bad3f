"""Execution of runs on the workers of a Dask cluster (`vitab run --dask`): `client`, `runs` (client), `worker`."""

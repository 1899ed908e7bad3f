"""`vitab run --dask`: execute runs on the workers of a Dask cluster."""

"""`vitab run --dask`: runs handed to the workers of a Dask cluster."""

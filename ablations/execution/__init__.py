"""Execute the runs of a study: plan, resources, queue, leases, worker processes, Dask."""

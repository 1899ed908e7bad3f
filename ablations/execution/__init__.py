"""Execution of the runs of a study: plan, resources, queue, leases, worker processes, Dask.

Start with `plan.make_plan`, `resources.plan_resources` and `execute.execute_plan`.
"""

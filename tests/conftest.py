"""Settings of the test process, before anything imports NumPy."""

import os

# Several test processes run side by side: with one BLAS thread each they do not compete for cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

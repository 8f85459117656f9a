"""Provisioning: from latency objectives and rates to thread percentages, batches and places on GPUs.

::

    rows = profiles.read(Path("profiles.csv"))
    behaviours = behaviour.fit_all(rows)
    plan = packing.pack(workloads, behaviours, Limits(gpus=2))

Nothing here needs a GPU: what was measured once plans any mix of models, anywhere.
"""

"""Provisioning: from latency objectives and rates to thread percentages, batches and places on GPUs.

::

    loaded = load([Path("spec.yaml")], [], os.environ)
    rows = profiles.read(Path("profiles.csv"))
    known = prediction.behaviours(rows)
    plan = packing.pack(objectives.workloads(loaded, known, "profiles.csv"), known, Terms(gpus=2))
    print(overlay.text(plan, loaded, "my script"))

Nothing here needs a GPU: what was measured once plans any mix of models, anywhere.
"""

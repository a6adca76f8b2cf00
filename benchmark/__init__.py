"""The harness: everything that a run needs, and nothing about a particular method."""

import os

__version__ = "0.1.0"

# nothing phones home: MLflow and huggingface_hub (of timm) would. Before either is imported, for every process that we
# start as well; who wants it sets the variable
for _name in ("MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ.setdefault(_name, "true")

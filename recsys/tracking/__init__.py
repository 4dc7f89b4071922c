"""What a run leaves behind for people to compare: MLflow, and nowhere else.

Holds the names of everything that is recorded, the local spool that training writes, its delivery to a tracking store,
a tracked run from start to end, recorded studies read back, the chart pages, the figures attached to a run, and a
server for MLflow's own pages. It knows neither models nor training: its callers pass plain numbers.
"""

import os

# Before mlflow is first imported. A run must not call home, nor print what its caller did not ask for; a server that is
# away must not hold a thread for minutes (MLflow's own default is seven retries of two minutes each); and no model may
# run pickled code when it is loaded.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

"""Airflow writes its config into AIRFLOW_HOME on its first import: a folder of this test run, never the user's."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="nightshift-test-airflow-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
# 64 bytes, the length that SHA-512 asks for; a shorter one is a warning, and warnings are errors here.
os.environ.setdefault("AIRFLOW__API_AUTH__JWT_SECRET", "only-for-tests-" * 5)

"""The embedded stack: PostgreSQL, MLflow and Airflow as processes on this machine, without containers."""

"""Programs that run in pods or as local processes. Nothing below imports Airflow."""

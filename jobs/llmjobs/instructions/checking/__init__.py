"""A contract looked at and tried without Airflow."""

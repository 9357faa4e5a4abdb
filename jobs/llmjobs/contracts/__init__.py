"""What Airflow and a job agree on: configs in, results out. Standard library, pydantic and PyYAML only."""

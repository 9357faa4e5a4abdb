"""Pages that Airflow's API server shows behind its own login."""

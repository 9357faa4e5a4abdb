"""What Airflow loads beside the DAGs: the operator, its forms, its assets and its views. Imports nothing heavy."""

"""Fixtures that every room may use; each lives in a module of its own."""

pytest_plugins = [
    "tests.fixtures.airflow_home",
    "tests.fixtures.postgres",
    "tests.fixtures.stack",
    "tests.fixtures.runs",
    "tests.fixtures.bundle",
    "tests.fixtures.s3",
    "tests.skips",
]

"""The tutorial's commands, in its order, in one shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs_examples import ROOT, blocks, named_blocks

PAGE = ROOT / "docs" / "tutorial.md"
TABLES = ("tutorial_orders", "tutorial_large_orders")
FLOWS = ("orders-from-files", "orders-from-kafka")


@pytest.fixture
def shop(postgresql, kafka):
    """The servers without what an earlier run of the tutorial left."""

    def clean() -> None:
        for table in TABLES:
            postgresql.execute(f"DROP TABLE IF EXISTS {table}")
        if postgresql.execute("SELECT to_regclass('airflow_connect_checkpoint')") != [(None,)]:
            postgresql.execute("DELETE FROM airflow_connect_checkpoint WHERE flow = ANY(%s)", list(FLOWS))
        admin = kafka.admin()
        if "tutorial-orders" in admin.list_topics(timeout=30).topics:
            admin.delete_topics(["tutorial-orders"])["tutorial-orders"].result(30)

    clean()
    kafka.create_topic(4, name="tutorial-orders")
    yield postgresql, kafka
    clean()


@pytest.mark.slow
def test_the_tutorial(shop, tmp_path: Path):
    postgresql, kafka = shop
    for name, text in named_blocks(PAGE).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "airflow-connect"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m airflow_provider_connect "$@"\n')
    script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(script.parent), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_CONN_SHOP": postgresql.dsn,
        "AIRFLOW_CONN_EVENTS": f"kafka://{kafka.bootstrap_servers}",
    }
    commands = "set -e\n" + "\n".join(blocks(PAGE, "bash"))
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    told = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    for flow, records in (("files", 2), ("files", 0), ("files", 1), ("kafka", 20_000)):
        assert re.search(rf"^orders-from-{flow}: {records:,} records in", done.stdout, re.M), told
    assert "exit code 1" in done.stdout and "was refused" in done.stderr
    assert "1 dead letters" in done.stdout
    assert "\n18000 18000\n" in done.stdout
    assert done.stdout.rstrip().endswith("\n270000 270000")
    rows = postgresql.execute("SELECT data->>'customer' FROM tutorial_orders ORDER BY (data->>'id')::int")
    assert [name for (name,) in rows] == ["Ada", "Grace", "Edsger", "Barbara"]

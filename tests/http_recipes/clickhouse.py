"""Inserts bodies into ClickHouse's engine, as its HTTP interface does: {"create", "insert", "bodies", "select"} in, rows out."""

import json
import sys

from chdb.session import Session

task = json.load(sys.stdin)
session = Session()
for statement in task["create"]:
    session.query(statement)
for body in task["bodies"]:
    session.query(f"{task['insert']}\n{body}")
print(session.query(task["select"], "JSONEachRow"))

"""Jobs: how many there are, kept by triggers, and the indices that lists of a million of them need."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# A later migration that makes `jobs` anew (batch_alter_table on SQLite) has to make the triggers anew too.
_ADD = """
INSERT INTO job_counts (type, status, created_by, n_jobs) VALUES ({row}.type, {row}.status,
coalesce({row}.created_by, ''), {by}) ON CONFLICT (type, status, created_by) DO UPDATE SET n_jobs = n_jobs + ({by})
"""
_CHANGED = "OLD.type <> NEW.type OR OLD.status <> NEW.status OR OLD.created_by IS NOT NEW.created_by"
_MORE, _LESS = _ADD.format(row="NEW", by="1"), _ADD.format(row="OLD", by="-1")
_SQLITE = {
    "jobs_counted_insert": f"AFTER INSERT ON jobs BEGIN {_MORE}; END",
    "jobs_counted_update": (
        f"AFTER UPDATE OF type, status, created_by ON jobs WHEN {_CHANGED} BEGIN {_LESS}; {_MORE}; END"
    ),
    "jobs_counted_delete": f"AFTER DELETE ON jobs BEGIN {_LESS}; END",
}
# Once a statement, and in one order, so that two transactions do not wait for each other's rows.
_SUM = """
INSERT INTO job_counts (type, status, created_by, n_jobs)
SELECT type, status, coalesce(created_by, ''), sum(n) FROM ({changes}) AS changes GROUP BY 1, 2, 3 HAVING sum(n) <> 0
ORDER BY 1, 2, 3
ON CONFLICT (type, status, created_by) DO UPDATE SET n_jobs = job_counts.n_jobs + excluded.n_jobs;
"""
_NEW = "SELECT type, status, created_by, 1 AS n FROM gained"
_OLD = "SELECT type, status, created_by, -1 AS n FROM lost"
_POSTGRESQL = f"""
CREATE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN {_SUM.format(changes=_NEW)}
  ELSIF TG_OP = 'DELETE' THEN {_SUM.format(changes=_OLD)}
  ELSE {_SUM.format(changes=f"{_NEW} UNION ALL {_OLD}")}
  END IF;
  RETURN NULL;
END $$
"""
_FORMER = (("created_at",), ("type", "status"))
_INDICES = (
    ("created_at", "id", "model_id"),  # what a text is looked for in, without reading the rows
    ("type", "status", "created_at"),
    ("status", "finished_at"),
    ("created_by", "created_at"),
    ("model_digest", "type", "created_at"),
)
_ROWS = {
    "insert": "NEW TABLE AS gained",
    "update": "OLD TABLE AS lost NEW TABLE AS gained",
    "delete": "OLD TABLE AS lost",
}


def upgrade() -> None:
    op.create_table(
        "job_counts",
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("n_jobs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("type", "status", "created_by", name="pk_job_counts"),
    )
    op.execute(
        "INSERT INTO job_counts (type, status, created_by, n_jobs)"
        " SELECT type, status, coalesce(created_by, ''), count(*) FROM jobs GROUP BY 1, 2, 3"
    )
    if op.get_bind().dialect.name == "sqlite":
        for name, body in _SQLITE.items():
            op.execute(f"CREATE TRIGGER {name} {body}")
    else:
        op.execute(_POSTGRESQL)
        for event, rows in _ROWS.items():
            op.execute(
                f"CREATE TRIGGER jobs_counted_{event} AFTER {event} ON jobs REFERENCING {rows}"
                " FOR EACH STATEMENT EXECUTE FUNCTION count_jobs()"
            )
    _exchange(_FORMER, _INDICES)


def downgrade() -> None:
    on = "" if op.get_bind().dialect.name == "sqlite" else " ON jobs"
    for event in _ROWS:
        op.execute(f"DROP TRIGGER jobs_counted_{event}{on}")
    if on:
        op.execute("DROP FUNCTION count_jobs()")
    _exchange(_INDICES, _FORMER)
    op.drop_table("job_counts")


def _exchange(old: tuple[tuple[str, ...], ...], new: tuple[tuple[str, ...], ...]) -> None:
    for columns in old:
        op.drop_index(f"ix_jobs_{'_'.join(columns)}", "jobs")
    for columns in new:
        op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", list(columns))

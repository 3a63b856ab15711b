"""What all tables together are: each module of tables is imported here."""

from control.database import count_tables, fleet_tables, history_tables, traffic_tables
from control.database.tables import Base

METADATA = Base.metadata
MODULES = (count_tables, fleet_tables, history_tables, traffic_tables)

"""The record: SQLAlchemy models and Alembic migrations. Nothing else touches the database.

Called by `services` (one short transaction an operation) and `lifecycle` (leases).
Calls nothing of clary but `settings`.
"""

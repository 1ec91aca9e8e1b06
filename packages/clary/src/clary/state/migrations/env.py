"""What Alembic runs: it works on the connection that `state.migrate` hands over, within that one's transaction."""

from alembic import context

from clary.state.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters most things only by copying the table
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()

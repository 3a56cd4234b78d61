"""Alembic's entry point. The connection comes from `migrations.upgrade`; there is no ini file."""

from alembic import context

from tradesweep.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

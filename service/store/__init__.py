"""PostgreSQL: every statement that the service sends stands in here."""

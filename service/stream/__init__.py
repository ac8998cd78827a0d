"""From the log to the connections: appender, follower, hub and cursors."""

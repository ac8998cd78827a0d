"""Pages that the service serves by itself: for admins, and a demonstration in the development profile."""

"""The rules of the log and of a connection: pure, without I/O, time as an argument."""

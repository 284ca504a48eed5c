"""What tells people of a server: metrics, traces, the records of the admin service, the watchdog."""

"""The command line and the launcher: the only place that puts party, enclave and host together."""
